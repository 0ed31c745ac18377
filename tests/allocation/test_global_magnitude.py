"""One threshold for all layers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import random
from torch import nn

from lowrank.allocation import GlobalMagnitude
from lowrank.allocation.global_magnitude import global_sparsities
from lowrank.compression.compress import compress
from lowrank.decomposers import MagnitudePruning

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 40), nn.Linear(40, 25))
    model[1].weight.data *= 0.1
    return model


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.77, 0.99])
def test_the_survivors_are_the_largest_weights_of_all_layers(sparsity):
    model = network()
    result = compress(model, GlobalMagnitude(sparsity))
    magnitudes = [layer.weight.detach().flatten().abs() for layer in model]
    for magnitude in magnitudes:
        magnitude[magnitude.argmax()] = torch.inf  # The largest of a layer always stays.
    together = torch.cat(magnitudes)
    keep = len(together) - round(sparsity * len(together))
    threshold = together.sort(descending=True).values[keep - 1]
    for magnitude, before, after in zip(magnitudes, model, result.model, strict=True):
        kept = (magnitude >= threshold).view_as(before.weight)
        assert torch.equal(after.weight, before.weight.where(kept, 0.0))
    assert sum(layer.params for layer in result.layers) == keep


@given(st.floats(0, 0.95), st.lists(shapes, min_size=1, max_size=4), st.booleans())
def test_one_threshold_for_all_layers(sparsity, shapes, equal):
    weights = {str(i): random(*shape, seed=i) * (i + 1) for i, shape in enumerate(shapes)}
    if equal:
        weights = {name: torch.ones_like(weight) for name, weight in weights.items()}
    total = sum(weight.numel() for weight in weights.values())
    zeros = round(sparsity * total)
    if total - zeros < len(weights):
        with pytest.raises(ValueError, match="each of which keeps at least 1; lower it"):
            global_sparsities(weights, sparsity)
        return
    shares = global_sparsities(weights, sparsity)
    results = {
        name: MagnitudePruning(shares[name]).decompose(weight).to_dense().detach()
        for name, weight in weights.items()
    }
    counts = {name: int((result != 0).sum()) for name, result in results.items()}
    assert sum(counts.values()) == total - zeros
    assert min(counts.values()) >= 1
    lost = [weights[n][results[n] == 0].abs().max() for n in weights if (results[n] == 0).any()]
    free = [weights[n][results[n] != 0].abs().min() for n in weights if counts[n] > 1]
    assert not lost or not free or max(lost) <= min(free)


def test_no_layer_is_emptied():
    result = compress(network(), GlobalMagnitude(0.995))
    assert all(layer.params >= 1 for layer in result.layers)
    assert sum(layer.params for layer in result.layers) == 2400 - round(0.995 * 2400)


def test_a_sparsity_outside_its_range():
    with pytest.raises(ValueError, match="sparsity"):
        compress(network(), GlobalMagnitude(1.0))


def test_bad_weights_of_a_global_threshold_are_named():
    with pytest.raises(ValueError, match="layer 'b': 1 of 4 values"):
        global_sparsities({"a": torch.ones(2, 2), "b": torch.tensor([[1.0, 2, 3, torch.nan]])}, 0.5)
    with pytest.raises(ValueError, match="at least 1 weight"):
        global_sparsities({}, 0.5)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, "0.5", True])
def test_a_share_that_is_none_is_refused_at_once(sparsity):
    with pytest.raises(ValueError, match=r"sparsity=.* must lie in \[0, 1\)"):
        GlobalMagnitude(sparsity)
