import math
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lowrank.compression.compress import compress
from lowrank.decomposers import MagnitudePruning, Quantization, TruncatedSVD
from lowrank.execution import KERNELS, ExecutionPlan, search
from lowrank.execution.sparse import CSRKernel
from lowrank.execution.timing import Timed
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.point import MeasureSettings, compare, measure, measure_model, ratios
from lowrank.tasks.class_metrics import class_metrics
from lowrank.tasks.class_scores import ClassScores
from lowrank.tasks.task import Split, SplitName


class Ramp(Split):
    def __len__(self) -> int:
        return 7

    def batch(self, rows: Tensor) -> Batch:
        return Batch((torch.linspace(-1, 1, 7 * 16).reshape(7, 16)[rows],), rows)


@dataclass(frozen=True)
class RampTask(ClassScores):
    name: str = "ramp"
    architecture: str = "mlp"
    seed: int = 0
    device: str = "cpu"

    def network(self) -> nn.Module:
        return self.model()

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 7)).eval()

    def split(self, name: SplitName) -> Split:
        return Ramp()

    def judged_by(self) -> tuple[Metric, ...]:
        return (*class_metrics(7), *super().judged_by())

    def metrics(self) -> MetricCollection:
        return MetricCollection({"top1": MulticlassAccuracy(7, average="micro")})

    def example(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        return (torch.zeros(batch_size, 16),)


CSR_FIRST = (KERNELS[0], CSRKernel())
SETTINGS = MeasureSettings(batch_size=4, latency_batch_sizes=(1, 3), latency_seconds=0.01)


def test_sizes_of_a_model_by_hand():
    assert measure_model(RampTask().model(), RampTask().example()) == {
        "params": 16 * 24 + 24 + 24 * 7 + 7,
        "trainable_params": 16 * 24 + 24 + 24 * 7 + 7,
        "trainable_bytes": 4 * (16 * 24 + 24 + 24 * 7 + 7),
        "bytes": 4 * (16 * 24 + 24 + 24 * 7 + 7),
        "body_bytes": 4 * (16 * 24 + 24),
        "macs": 16 * 24 + 24 * 7,
        # All weights, the input, and the output of the first layer with that of the activation.
        "peak_memory_bytes": 4 * (16 * 24 + 24 + 24 * 7 + 7) + 4 * (16 + 24 + 24),
    }


def test_a_comparison_has_the_parts_of_a_record():
    task = RampTask()
    dense = measure(task.model(), task, SETTINGS)
    small = compress(dense.model, TruncatedSVD(rank=4), where="0", example=task.example())
    compressed = measure(small.model, task, SETTINGS, dense)
    record = compare(dense, compressed, small, task, SETTINGS)
    parts = {"metrics", "dense", "dense_dtype", "compressed", "ratios", "latency", "undefined"}
    parts |= {"standard_errors"}
    assert set(record) == parts and record["undefined"] == {}
    assert record["metrics"] == [asdict(metric) for metric in task.judged_by()]
    assert record["dense_dtype"] == "float32"
    sizes = {
        "params",
        "trainable_params",
        "trainable_bytes",
        "bytes",
        "body_bytes",
        "macs",
        "peak_memory_bytes",
    }
    assert set(record["dense"]) == {"top1", "loss"} | sizes
    assert set(record["compressed"]) == set(record["dense"]) | {"flipped", "kl"}
    assert [entry["batch_size"] for entry in record["latency"]] == [1, 3]

    layer, rest = 16 * 24, 24 + 24 * 7 + 7
    assert record["compressed"]["params"] == 4 * (16 + 24) + rest
    whole = (layer + rest) / (4 * 40 + rest)
    assert record["ratios"] == pytest.approx(
        {
            "compression_ratio": whole,
            "body_compression_ratio": (layer + 24) / (160 + 24),
            "param_ratio": whole,
            "theoretical_speedup": (layer + 168) / (4 * 40 + 168),
            "trainable_ratio": whole,
            "layers_compression_ratio": layer / 160,
            "layers_param_ratio": layer / 160,
            "layers_bits_per_weight": 32 * 160 / layer,
            "coverage": layer / (layer + rest),
        }
    )


@dataclass(frozen=True)
class Attending(RampTask):
    """An attention that reads its packed weight, between layers that are called."""

    def model(self) -> nn.Module:
        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
                self.head = nn.Linear(16, 7)

            def forward(self, x: Tensor) -> Tensor:
                x = x[:, None]
                return self.head(self.attention(x, x, x, need_weights=False)[0][:, 0])

        return Network().eval()


ROUNDED, FACTORED = Quantization(bits=8), TruncatedSVD(rank=2)


@pytest.mark.parametrize(
    ("task", "method", "dense"),
    [
        (RampTask(), ROUNDED, True),
        (RampTask(), MagnitudePruning(0.5), True),
        (RampTask(), {"0": ROUNDED, "2": FACTORED}, False),
        (RampTask(), FACTORED, False),
        # Its weight is multiplied out at every call, which costs.
        (Attending(), ROUNDED, False),
        (Attending(), {"head": ROUNDED}, True),
    ],
)
def test_what_runs_as_dense_has_no_speedup(task, method, dense):
    where = list(method) if isinstance(method, dict) else None
    small = compress(task.model(), method, where)
    before, after = measure(task.model(), task, SETTINGS), measure(small.model, task, SETTINGS)
    for entry in compare(before, after, small, task, SETTINGS)["latency"]:
        speedups = [entry[name] for name in ("speedup", "speedup_low", "speedup_high")]
        assert all((one is None) == dense for one in speedups)
        assert entry["dense_s"] > 0 and entry["compressed_s"] > 0


@pytest.mark.parametrize(
    ("kernels", "dense"), [(KERNELS[:1], True), (KERNELS[:2], True), (CSR_FIRST, False)]
)
def test_nor_has_what_a_plan_runs_as_dense(kernels, dense, monkeypatch):
    # The last kernel that can run is the fastest.
    def race(runs, x, seconds):
        return [Timed(1 / (2 + i), 2.0 + i, 2.0 + i, 2.0 + i) for i in range(len(runs))]

    monkeypatch.setattr(search, "race", race)
    monkeypatch.setattr("lowrank.point.settings.KERNELS", kernels)
    task, settings = RampTask(), replace(SETTINGS, threads=1, optimize="exact")
    small = compress(task.model(), MagnitudePruning(0.9))
    before, after = measure(task.model(), task, settings), measure(small.model, task, settings)
    found = compare(before, after, small, task, settings)
    assert [entry["speedup"] is None for entry in found["latency"]] == [dense, dense]
    assert found["latency"][0]["kernels"] == f"2 × {kernels[-1].name}"


def test_nor_has_a_product_that_a_plan_multiplies_out(monkeypatch):
    def race(runs, x, seconds):  # Dense is the fastest.
        return [Timed(1.0 + i, 1 / (1 + i), 1 / (1 + i), 1 / (1 + i)) for i in range(len(runs))]

    monkeypatch.setattr(search, "race", race)
    task, settings = RampTask(), replace(SETTINGS, threads=1, optimize="exact")
    small = compress(task.model(), FACTORED)
    before, after = measure(task.model(), task, settings), measure(small.model, task, settings)
    found = compare(before, after, small, task, settings)
    assert {layer.kernel for layer in small.layers} == {"factored"}
    assert [entry["speedup"] for entry in found["latency"]] == [None, None]


@pytest.mark.parametrize(("where", "dense"), [("*", False), ("head", True)])
def test_a_weight_that_an_attention_reads_runs_as_it_does_whatever_the_plan(
    where, dense, monkeypatch
):
    monkeypatch.setattr("lowrank.point.settings.KERNELS", KERNELS[:1])
    task, settings = Attending(), replace(SETTINGS, threads=1, optimize="exact")
    small = compress(task.model(), ROUNDED, where)
    before, after = measure(task.model(), task, settings), measure(small.model, task, settings)
    for entry in compare(before, after, small, task, settings)["latency"]:
        assert (entry["speedup"] is None) == dense


def test_what_a_model_has_none_of_has_no_ratio():
    table = nn.Embedding(20, 16)
    small = compress(table, TruncatedSVD(rank=2))
    sizes = {"bytes": 1, "body_bytes": 0, "params": 1, "macs": 0, "trainable_params": 0}
    found = ratios(sizes, sizes, small.layers)
    for name in ("theoretical_speedup", "trainable_ratio", "body_compression_ratio"):
        assert found[name] is None


def test_nothing_compressed_is_nothing_to_compare():
    sizes = {"bytes": 1, "params": 1, "macs": 1}
    with pytest.raises(ValueError, match="no layer was compressed"):
        ratios(sizes, sizes, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 1.5}, "batch_size=1.5 must be .* an integer"),
        ({"batch_size": True}, "batch_size=True must be .* an integer"),
        ({"latency_batch_sizes": (1, 0)}, "latency_batch_sizes=0 must be at least 1"),
        ({"latency_batch_sizes": (8, 8)}, "has one size twice"),
        ({"latency_batch_sizes": 8}, "latency_batch_sizes=8 must be a list"),
        ({"latency_seconds": 0}, "latency_seconds=0 must be above 0"),
        ({"latency_seconds": math.nan}, "latency_seconds=nan must be above 0"),
        ({"harness_tasks": "arc_easy"}, "harness_tasks='arc_easy' must be a list"),
        ({"harness_tasks": [1]}, "must be names of tasks"),
        ({"harness_limit": 5}, "harness_limit=5 has no effect without harness_tasks"),
        (
            {"latency_batch_sizes": (), "latency_seconds": 1.0},
            "latency_seconds=1.0 has no effect without latency_batch_sizes",
        ),
        (
            {"latency_batch_sizes": [], "optimize": "exact"},
            "optimize='exact' has no effect without latency_batch_sizes",
        ),
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"optimize": "fast"}, "accuracy='fast' does not exist: give 'exact'"),
        ({"optimize": {"kernels": []}}, "accuracy=.* does not exist: give 'exact'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        MeasureSettings(**options)


def test_optimised_models_are_timed_and_named():
    task = RampTask()
    settings = replace(SETTINGS, threads=1, optimize="int8")
    small = compress(task.model(), TruncatedSVD(rank=2))
    before = measure(task.model(), task, settings)
    after = measure(small.model, task, settings, before)
    found = compare(before, after, small, task, settings)
    assert [entry["batch_size"] for entry in found["execution"]] == [1, 3]
    for latency, entry in zip(found["latency"], found["execution"], strict=True):
        assert latency["kernels"] == ExecutionPlan.from_json(entry["plan"]).summary() != ""
        assert entry["quality"].keys() == {"top1", "loss"}
    exact = compare(before, after, small, task, replace(settings, optimize="exact"))
    assert "quality" not in exact["execution"][0]
    plain = compare(before, after, small, task, SETTINGS)
    assert "execution" not in plain and "kernels" not in plain["latency"][0]
