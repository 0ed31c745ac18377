"""One threshold for all layers."""

import pytest
import torch
from torch import nn

from lowrank.allocation import GlobalMagnitude
from lowrank.compress import compress


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


def test_no_layer_is_emptied():
    result = compress(network(), GlobalMagnitude(0.995))
    assert all(layer.params >= 1 for layer in result.layers)
    assert sum(layer.params for layer in result.layers) == 2400 - round(0.995 * 2400)


def test_a_sparsity_outside_its_range():
    with pytest.raises(ValueError, match="sparsity"):
        compress(network(), GlobalMagnitude(1.0))
