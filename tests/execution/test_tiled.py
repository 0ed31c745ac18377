"""Entropy-coded matrices that are decoded in tiles and never held."""

import tracemalloc
from dataclasses import replace

import pytest
import torch
from torch import nn

import lowrank
from lowrank import EntropyCodedQuantization, Quantization, TruncatedSVD
from lowrank.execution import ExecutionPlan, Search, TiledKernel, Trial
from lowrank.execution.choice import choose
from lowrank.execution.dense import DenseKernel, DequantizeKernel
from lowrank.factorizations.entropy_tiles import EntropyTiles
from lowrank.measure.memory import peak_memory

QUICK = Search(1e-3, kernels=(DenseKernel(), DequantizeKernel(), TiledKernel(2**13)))


def matrix(out, into, bits=3, dtype=torch.float32):
    torch.manual_seed(0)
    # Rows and columns of unlike sizes, whose exponents differ.
    weight = torch.randn(out, into) * torch.linspace(0.1, 9, out)[:, None]
    return EntropyCodedQuantization(bits=bits).decompose((weight * torch.rand(into)).to(dtype))


@pytest.mark.parametrize("weights", [1, 40, 1000, 10**9])
@pytest.mark.parametrize("shape", [(1, 700), (700, 1), (37, 53), (130, 41)], ids=str)
def test_the_tiles_are_the_matrix(shape, weights):
    form = matrix(*shape)
    expected, row = form.to_dense(), 0
    for first, tile in EntropyTiles(form, weights):
        assert first == row and torch.equal(tile, expected[first : first + len(tile)])
        row += len(tile)
    assert row == shape[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_tiles_have_the_dtype_of_the_matrix(dtype):
    form = matrix(20, 30, dtype=dtype)
    found = torch.cat([tile for _, tile in EntropyTiles(form, 100)])
    assert found.dtype == dtype and torch.equal(found, form.to_dense())


def test_a_damaged_stream_is_refused():
    form = matrix(60, 60)
    form.stream[-1] ^= 1
    with pytest.raises(ValueError, match="cannot be decoded"):
        list(EntropyTiles(form, 100))


@pytest.fixture(scope="module")
def large():
    """A model of one matrix of 4 MB, and the model that decodes it in tiles of 32 kB."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(1024, 1024))
    model = lowrank.compress(dense, EntropyCodedQuantization(bits=2)).model.eval()
    example = (torch.randn(2, 1024),)
    return model, example, lowrank.optimize_for(model, example, search=QUICK, goal="memory")


def test_the_matrix_is_never_held(large):
    model, example, tiled = large
    whole, stored = 4 * 2**20, sum(t.nbytes for t in model.state_dict().values())
    assert peak_memory(model, example) > whole
    assert peak_memory(tiled.model, example) < stored + whole / 8
    with torch.inference_mode():
        tracemalloc.start()  # It sees the arrays of numpy, which are not tensors.
        tiled.model(*example)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < whole / 8


def test_outputs_are_those_of_the_dense_matrix(large):
    model, example, tiled = large
    with torch.inference_mode():
        torch.testing.assert_close(tiled.model(*example), model(*example))


def test_the_plan_has_memory_and_time_of_both(large):
    _, _, tiled = large
    (layer,) = tiled.plan.layers
    assert layer.kernel == "tiled"
    by_name = {trial.kernel: trial for trial in layer.trials}
    assert by_name["dense"].packed_bytes == 4 * 2**20 and by_name["dense"].made_bytes == 0
    assert by_name["dequantize"].made_bytes == 4 * 2**20
    assert by_name["tiled"].made_bytes == 4 * 2**13
    assert all(trial.seconds > 0 for trial in layer.trials)
    assert (layer.made_bytes, layer.packed_bytes) == (2**15, by_name["tiled"].packed_bytes)


def test_a_plan_is_followed_without_the_matrix(large):
    model, example, tiled = large
    plan = ExecutionPlan.from_json(tiled.plan.to_json())
    again = lowrank.optimize_for(model, example, plan=plan, search=QUICK, goal="memory")
    with torch.inference_mode():
        assert torch.equal(again.model(*example), tiled.model(*example))


def test_each_layer_takes_what_needs_least():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    methods = {
        "0": TruncatedSVD(rank=4),
        "1": Quantization(bits=8),
        "2": EntropyCodedQuantization(bits=4),
    }
    model = lowrank.compress(dense, methods).model.eval()
    example = (torch.randn(3, 64),)
    found = lowrank.optimize_for(model, example, search=replace(QUICK), goal="memory")
    for layer in found.plan.layers:
        needs = [t.packed_bytes + t.made_bytes for t in layer.trials if not t.refused]
        assert layer.packed_bytes + layer.made_bytes == min(needs)
    with torch.inference_mode():
        torch.testing.assert_close(found.model(*example), model(*example))


def test_memory_decides_before_time_and_time_among_equals():
    def trial(name, held, made, speedup):
        return Trial(name, speedup=speedup, speedup_low=speedup, packed_bytes=held, made_bytes=made)

    trials = [trial("dense", 100, 0, 1.0), trial("a", 0, 90, 0.5), trial("b", 60, 30, 0.7)]
    assert choose(trials) == 0 and choose(trials, goal="memory") == 2
    slow = [*trials, trial("c", 1, 2, 0.01), replace(trial("d", 0, 0, 9.0), refused="no")]
    assert choose(slow, goal="memory") == 3


def test_another_goal_is_refused(large):
    model, example, _ = large
    with pytest.raises(ValueError, match="goal='size' must be one of"):
        lowrank.optimize_for(model, example, goal="size")
