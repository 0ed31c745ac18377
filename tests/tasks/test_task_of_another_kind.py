"""A task of numbers, with inputs by name, as the pages show it: nothing in it is a class score."""

from pathlib import Path

import pytest
import torch
from pages import blocks

import lowrank
from lowrank.allocation import Budget, MixedAllocation
from lowrank.calibration import Batches, TaskData
from lowrank.calibration.collect import collect
from lowrank.calibration.fisher import fisher
from lowrank.model.sites import find_sites
from lowrank.point import MeasureSettings
from lowrank.recovery import BiasCorrection, FineTune, Tune

PAGE = Path(__file__).parents[2] / "docs/how-to-add-a-task.md"
QUICK = MeasureSettings(latency_batch_sizes=())
LAYERS = ["x", "by", "out"]


@pytest.fixture(scope="module")
def task():
    (block,) = [block for block in blocks(PAGE, "python") if "(Task)" in block]
    namespace = {"__name__": "my_tasks"}
    exec(compile(block.partition("\nrecord = ")[0], "page", "exec"), namespace)
    return namespace["Scaling"]()


@pytest.fixture(scope="module")
def model(task):
    return task.model()


def moved(task, model, small):
    """The mean of (y − ŷ)² over the test examples."""
    example = task.example(256)
    with torch.no_grad():
        dense, ours = model(**example).double(), small(**example).double()
    return float((dense - ours).square().mean())


def test_a_point_is_judged_by_its_own_measure(task, model):
    method = lowrank.TruncatedSVD(rank=2)
    record = lowrank.measure_point(task, method, norm="full", measure=QUICK)
    names = [metric["name"] for metric in record["metrics"]]
    assert names == ["rmse", "loss", "output_error"]
    for part in ("dense", "compressed"):
        assert record[part]["rmse"] == pytest.approx(record[part]["loss"] ** 0.5, rel=1e-5)
    assert "output_error" not in record["dense"]
    small = lowrank.compress(model, method, norm="full", data=task).model
    expected = moved(task, model, small)
    assert record["compressed"]["output_error"] == pytest.approx(expected, rel=1e-5)
    assert expected > 0.001


def test_statistics_are_those_of_its_inputs(task, model):
    whole = task.split("calibration").batch(torch.arange(256))
    found = collect(model, LAYERS, TaskData(task, 50), full=True)
    same = collect(model, LAYERS, Batches([whole.inputs]), full=True)
    x = whole.inputs["x"].double()
    torch.testing.assert_close(found["x"].columns, x.T @ x / 256, rtol=1e-5, atol=1e-7)
    for name in LAYERS:
        torch.testing.assert_close(found[name].columns, same[name].columns, rtol=1e-5, atol=1e-7)
    sites = {site.name: site for site in find_sites(model)}
    assert bool((fisher(model, sites, TaskData(task, 8))["out"].columns > 0).any())


@pytest.mark.parametrize(
    "recovery",
    [
        Tune(epochs=4, parts=["values", "biases"], learning_rate=0.01),
        FineTune(epochs=2, learning_rate=0.001, distill=1.0),
        FineTune(epochs=2, learning_rate=0.001),
        BiasCorrection(),
    ],
    ids=["tune", "distill", "finetune", "biases"],
)
def test_recoveries_bring_it_nearer_to_the_dense_model(task, model, recovery):
    small = lowrank.compress(model, lowrank.TruncatedSVD(rank=1)).model
    before = moved(task, model, small)
    recovery.recover(small, task)
    assert moved(task, model, small) < before


def test_a_mix_counts_how_far_the_outputs_move(task, model):
    method = MixedAllocation([lowrank.Quantization(bits) for bits in (2, 3, 4, 8)], Budget(ratio=4))
    small = lowrank.compress(model, method, example=task.example(), data=task)
    assert 0 < moved(task, model, small.model) < 0.1
