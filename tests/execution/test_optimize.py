"""Optimised models: the same numbers, names and files; plans that come back; clear errors."""

import copy
import dataclasses
import json
import pickle
from typing import ClassVar

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import (
    Chain,
    LowRankPlusSparse,
    LowRankTimesSparse,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
)
from lowrank.execution import KERNELS, ExecutionPlan, Kernel, Prepared, Search, optimize_for, search
from lowrank.execution.kernel import bound, relative_error
from lowrank.execution.timing import Timed
from lowrank.export import checkpoint
from lowrank.measure import macs, nbytes, params

METHODS = {
    "low rank": TruncatedSVD(rank=4),
    "sparse": MagnitudePruning(0.7),
    "8 bits": Quantization(bits=8),
    "sum": LowRankPlusSparse(rank=2, sparsity=0.8),
    "product": LowRankTimesSparse(rank=6, sparsity=0.6),
    "nested": Chain([TruncatedSVD(rank=6), Quantization(bits=8)]),
}


class Mixed(nn.Module):
    """A table, convolutions of several kinds, a linear layer, and a head tied to the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.convolutions = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding="same", padding_mode="circular"),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2),
        )
        self.linear = nn.Linear(32, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        image = self.table(ids).unflatten(-1, (4, 4))
        return self.head(self.linear(self.convolutions(image).flatten(1)))


IDS = torch.arange(8).view(2, 4) % 20


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture
def times(monkeypatch):
    """Make the speed-up of a kernel what its place among those that run says."""

    def pretend(speed):
        def race(runs, x, seconds):
            speeds = map(speed, range(len(runs)))
            return [Timed(1 / one, one, one, one) for one in speeds]

        monkeypatch.setattr(search, "race", race)

    return pretend


def outputs(model, *inputs):
    with torch.no_grad():
        return model(*inputs)


def contents(path):
    """Header and tensors of a safetensors file; the order within its header is random."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("speed", [lambda i: 1.0, lambda i: 1.0 + i, lambda i: 1 / (1 + i)])
def test_numbers_stay_whatever_is_chosen(model, times, method, speed):
    times(speed)
    small = compress(model, METHODS[method]).model.eval()
    before = copy.deepcopy(small.state_dict())
    optimized = optimize_for(small, (IDS,))
    assert relative_error(outputs(optimized.model, IDS), outputs(small, IDS)) < 1e-5
    assert all(torch.equal(t, before[n]) for n, t in small.state_dict().items())
    assert optimized.plan.error <= bound("exact", torch.float32)
    names = ["table", "convolutions.0", "convolutions.2", "linear", "head"]
    assert list(optimized.plan.kernels) == names


@pytest.mark.parametrize("method", METHODS)
def test_looser_accuracy_stays_within_its_bound(times, method):
    times(lambda i: 1.0 + i)
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 32)).eval()
    small, x = compress(dense, METHODS[method]).model, torch.randn(5, 64)
    for accuracy in ("bfloat16", "int8"):
        optimized = optimize_for(small, (x,), accuracy)
        for layer in optimized.plan.layers:
            assert layer.error <= bound(layer.accuracy, torch.float32)
        assert relative_error(outputs(optimized.model, x), outputs(small, x)) < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_comes_back_and_is_applied_without_timing(model, times, method, monkeypatch):
    times(lambda i: 1.0 + i)
    small = compress(model, METHODS[method]).model.eval()
    first = optimize_for(small, (IDS,))
    plan = ExecutionPlan.from_json(first.plan.to_json())
    assert plan == first.plan
    monkeypatch.setattr(search, "race", None)  # Whoever calls it fails.
    second = optimize_for(small, (IDS,), plan=plan)
    assert torch.equal(outputs(second.model, IDS), outputs(first.model, IDS))
    assert second.plan is plan


def test_a_plan_is_a_table_too(model, times):
    times(lambda i: 1.0)
    plan = optimize_for(compress(model, TruncatedSVD(rank=4)).model, (IDS,)).plan
    frame = plan.to_frame()
    assert frame.groupby("name")["chosen"].sum().eq(1).all()
    assert plan.summary()
    assert all(layer.speedup_over_best_dense <= layer.speedup for layer in plan.layers)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_saved_to_the_same_file(model, times, method, tmp_path):
    times(lambda i: 1.0 + i)
    small = compress(model, METHODS[method]).model.eval()
    optimized = optimize_for(small, (IDS,)).model
    checkpoint.save(small, tmp_path / "plain")
    checkpoint.save(optimized, tmp_path / "optimized")
    assert contents(tmp_path / "plain") == contents(tmp_path / "optimized")
    assert nbytes(optimized) == nbytes(small) and params(optimized) == params(small)


def test_memory_is_shared(model, times):
    times(lambda i: 1.0 + i)
    small = compress(model, TruncatedSVD(rank=4)).model
    optimized = optimize_for(small, (IDS,)).model
    own = {tensor.data_ptr() for tensor in small.parameters()}
    assert {tensor.data_ptr() for tensor in optimized.parameters()} == own


def test_what_would_leave_the_kernels_behind_is_refused(model, times):
    times(lambda i: 1.0 + i)
    small = compress(model, TruncatedSVD(rank=4)).model
    optimized = optimize_for(small, (IDS,)).model
    for what, act in {
        "trained": lambda: optimized.train(),
        "moved or converted": lambda: optimized.double(),
        "loaded into": lambda: optimized.load_state_dict(small.state_dict()),
        "pickled": lambda: pickle.dumps(optimized),
    }.items():
        with pytest.raises(ValueError, match=f"cannot be {what}.*optimise again"):
            act()
    same = copy.deepcopy(optimized)
    assert torch.equal(outputs(same, IDS), outputs(optimized, IDS))
    with pytest.raises(ValueError, match="optimised already"):
        optimize_for(optimized, (IDS,))


def test_other_batch_sizes_run_too(model, times):
    times(lambda i: 1.0 + i)
    small = compress(model, LowRankPlusSparse(rank=2, sparsity=0.8)).model
    optimized = optimize_for(small, (IDS,)).model
    for ids in (IDS[:1], IDS.repeat(9, 1)):
        assert relative_error(outputs(optimized, ids), outputs(small, ids)) < 1e-5


class Wrong(Kernel):
    """Faster than all, and wrong."""

    name: ClassVar[str] = "wrong"

    def refusal(self, work):
        return ""

    def prepare(self, work):
        return Prepared(lambda x: 1.1 * work.native(x), 0)


class Own(Kernel):
    """A kernel of a user."""

    name: ClassVar[str] = "own"

    def refusal(self, work):
        return "" if work.multiplies else "only products"

    def prepare(self, work):
        return Prepared(work.native, 0)


def test_a_kernel_of_ones_own_is_one_class(model, times):
    times(lambda i: 1.0 + i)
    small = compress(model, MagnitudePruning(0.5)).model
    mine = Search(kernels=(*KERNELS, Own()))
    optimized = optimize_for(small, (IDS,), search=mine)
    assert optimized.plan.kernels["linear"] == "own"
    assert optimized.plan.kernels["convolutions.2"] != "own"
    with pytest.raises(ValueError, match="layer 'linear': the plan names the kernel 'own'.*Search"):
        optimize_for(small, (IDS,), plan=optimized.plan)
    optimize_for(small, (IDS,), plan=optimized.plan, search=mine)


def test_a_wrong_kernel_is_not_taken(model, times):
    times(lambda i: 1.0 + i)
    small = compress(model, MagnitudePruning(0.5)).model
    plan = optimize_for(small, (IDS,), search=Search(kernels=(KERNELS[0], Wrong()))).plan
    assert set(plan.kernels.values()) == {"dense"}
    assert "its error of 0.1 is above" in plan.layers[0].trials[1].refused


def test_a_plan_that_is_less_exact_than_allowed_is_refused(model, times):
    times(lambda i: 1.0 + i)
    small = compress(model, Quantization(8)).model
    plan = optimize_for(small, (IDS,)).plan
    loose = dataclasses.replace(plan.layers[0], accuracy="int8")
    plan = dataclasses.replace(plan, accuracy="int8", layers=(loose, *plan.layers[1:]))
    with pytest.raises(ValueError, match=r"\['table'\] less exactly .*give accuracy='int8'"):
        optimize_for(small, (IDS,), plan=plan)
    assert optimize_for(small, (IDS,), "int8", plan=plan).plan is plan


def test_a_plan_for_other_things_is_refused(model, times):
    times(lambda i: 1.0 + i)
    small = compress(model, MagnitudePruning(0.5)).model
    plan = optimize_for(small, (IDS,)).plan
    other = compress(model, TruncatedSVD(rank=4)).model
    with pytest.raises(ValueError, match="layer 'table' is LowRank .* was made for Sparse"):
        optimize_for(other, (IDS,), plan=plan)
    part = compress(model, MagnitudePruning(0.5), where="linear").model
    with pytest.raises(ValueError, match="another model or example.*has .*'table'.* besides"):
        optimize_for(part, (IDS,), plan=plan)
    cuda = dataclasses.replace(plan.layers[3], kernel="semi_structured")
    plan = dataclasses.replace(plan, layers=(*plan.layers[:3], cuda, *plan.layers[4:]))
    with pytest.raises(ValueError, match="'semi_structured' of the plan does not run here: .*CUDA"):
        optimize_for(small, (IDS,), plan=plan)


@pytest.mark.parametrize("text", ["{}", "nothing", '{"layers": 3, "skipped": []}'])
def test_what_is_no_plan(text):
    with pytest.raises(ValueError, match="this is no plan of optimize_for"):
        ExecutionPlan.from_json(text)


def test_bad_input(model):
    with pytest.raises(ValueError, match="no factorized layer to run faster: compress it first"):
        optimize_for(model, (IDS,))
    small = compress(model, TruncatedSVD(rank=4)).model
    with pytest.raises(ValueError, match="example must be a non-empty tuple"):
        optimize_for(small, IDS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="accuracy='fast' does not exist"):
        optimize_for(small, (IDS,), "fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seconds=0 must be above 0"):
        Search(seconds=0)
    with pytest.raises(ValueError, match="threads=0 must be at least 1"):
        Search(threads=0)
    with pytest.raises(ValueError, match="must begin with 'dense'"):
        Search(kernels=KERNELS[1:])
    with pytest.raises(ValueError, match="have different names"):
        Search(kernels=(*KERNELS, KERNELS[1]))


def test_what_an_attention_reads_stays(times):
    times(lambda i: 1.0)
    attention = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True).eval()
    small, x = compress(attention, TruncatedSVD(rank=3)).model.eval(), torch.randn(2, 5, 16)
    optimized = optimize_for(small, (x,))
    assert list(optimized.plan.kernels) == ["linear1", "linear2"]
    skipped = dict(optimized.plan.skipped)
    assert skipped.keys() == {"self_attn", "self_attn.out_proj"}
    assert "read by another module" in skipped["self_attn"]
    assert relative_error(outputs(optimized.model, x), outputs(small, x)) < 1e-5


def test_a_conv1d_of_transformers():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    dense = nn.Sequential(conv1d(24, 16), conv1d(8, 24))
    small, x = compress(dense, TruncatedSVD(rank=3)).model, torch.randn(2, 3, 16)
    optimized = optimize_for(small, (x,))
    assert relative_error(outputs(optimized.model, x), outputs(small, x)) < 1e-5


def test_a_model_that_is_one_layer_and_is_measured():
    small = compress(nn.Linear(32, 16), TruncatedSVD(rank=2)).model
    x = torch.randn(3, 32)
    optimized = optimize_for(small, (x,)).model
    assert relative_error(outputs(optimized, x), outputs(small, x)) < 1e-5
    assert macs(optimized, (x,)) > 0


def test_inputs_may_be_given_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(64, 64)

        def forward(self, *, x):
            return self.body(x)

    small = compress(Named(), TruncatedSVD(rank=4)).model
    example = {"x": torch.randn(3, 64)}
    fast = optimize_for(small, example, search=Search(seconds=0.01))
    torch.testing.assert_close(fast.model(**example), small(**example))
    again = optimize_for(small, example, plan=fast.plan)
    assert again.plan == fast.plan


class TestSpeedBesideItsLimit:
    def test_bytes_a_second_are_those_of_the_weights_that_a_pass_reads(self, model, times):
        times(lambda place: 2.0)
        plan = optimize_for(compress(model, METHODS["8 bits"]).model, (IDS,)).plan
        frame = plan.to_frame()
        linear = frame[(frame["name"] == "linear") & (frame["kernel"] == "dense")].iloc[0]
        assert linear["read_bytes"] == 4 * 16 * 32
        assert linear["gb_per_second"] == pytest.approx(4 * 16 * 32 / 0.5 / 1e9)
        assert linear["of_bandwidth"] == pytest.approx(4 * 16 * 32 / 0.5 / plan.bandwidth)

    def test_of_a_table_only_some_rows_are_read(self, model):
        plan = optimize_for(compress(model, METHODS["8 bits"], where="table").model, (IDS,)).plan
        assert all(trial.bytes_per_second is None for trial in plan.layers[0].trials)

    def test_leaves_together_read_what_each_reads(self, model):
        small = compress(model, METHODS["low rank"], where="linear").model
        (layer,) = optimize_for(small, (IDS,)).plan.layers
        factored = [trial for trial in layer.trials if trial.kernel == "factored"]
        assert factored and all(t.read_bytes == 4 * 4 * (16 + 32) for t in factored)

    def test_plans_of_before_have_no_bandwidth(self, model):
        plan = optimize_for(compress(model, METHODS["8 bits"]).model, (IDS,)).plan
        old = json.loads(plan.to_json())
        del old["bandwidth"]
        for layer in old["layers"]:
            for trial in layer["trials"]:
                del trial["read_bytes"]
        assert ExecutionPlan.from_json(old).to_frame()["gb_per_second"].isna().all()
