"""The choice of weights by name."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.model.select import Select, matches

NAMES = ["[x]", "a*b", "a?", "!", "[", "plain"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict((name, nn.Linear(8, 8)) for name in NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_can_be_named_whatever_its_letters(name):
    assert matches(name, name)
    for where in (name, [name], Select(include=name)):
        chosen = compress(network(), Quantization(4), where=where).layers
        assert name in [layer.name for layer in chosen]
    left = compress(network(), Quantization(4), where=Select(exclude=name)).skipped
    assert f"{name}.weight" in dict(left) or name in dict(left)


@pytest.mark.parametrize("name", NAMES)
def test_a_mapping_names_it_too(name):
    result = compress(network(), {name: TruncatedSVD(2), "*": Quantization(4)})
    methods = {layer.name: layer.decomposer for layer in result.layers}
    assert methods[name] == repr(TruncatedSVD(2))
    assert methods["plain"] == repr(TruncatedSVD(2) if name == "plain" else Quantization(4))


def test_patterns_of_several_layers_are_globs_still():
    assert matches("x", "[x]") and matches("axb", "a*b") and not matches("b", "[x]")


def test_whole_numbers_are_names_in_a_selection_and_in_a_mapping():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    result = compress(model, {0: TruncatedSVD(2), "2": Quantization(4)})
    assert [layer.decomposer for layer in result.layers] == [
        repr(TruncatedSVD(2)),
        repr(Quantization(4)),
    ]
    assert [layer.name for layer in compress(model, Quantization(4), where=2).layers] == ["2"]
