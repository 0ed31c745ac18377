"""Subclasses of known layers, and instances to which something was added."""

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import Quantization, TruncatedSVD


class Called(nn.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


class Remembering(nn.Linear):
    def get_extra_state(self):
        return {"steps": 3}


class Plain(nn.Linear):
    """The same code: it is compressed."""


def with_part(name, part):
    layer = nn.Linear(8, 8)
    setattr(layer, name, part)
    return layer


def with_buffer():
    layer = nn.Linear(8, 8)
    layer.register_buffer("steps", torch.ones(3))
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        Called(8, 8),
        Remembering(8, 8),
        with_part("inner", nn.Linear(8, 8)),
        with_part("extra", nn.Parameter(torch.ones(8))),
        with_buffer(),
    ],
)
def test_what_a_stand_in_would_lose_is_left_and_said(layer):
    model, x = nn.Sequential(layer, nn.Linear(8, 8)), torch.randn(2, 8)
    result = compress(model, Quantization(bits=8))
    assert [report.name for report in result.layers][-1] == "1"
    assert "0" not in [report.name for report in result.layers]
    assert "0.weight" in dict(result.skipped)
    kept, had = (
        {name.partition(".")[0] for name in module.state_dict()}
        for module in (result.model[0], model[0])
    )
    assert kept == had
    torch.testing.assert_close(result.model[0](x), model[0](x), rtol=0.1, atol=0.05)


def test_a_subclass_with_the_same_code_is_compressed():
    assert compress(nn.Sequential(Plain(8, 8)), TruncatedSVD(rank=2)).layers


def test_attributes_of_an_instance_move_along():
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].scale = 2.0
    result = compress(model, TruncatedSVD(rank=2)).model[0]
    assert result.scale == 2.0 and result.in_features == 8


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x.sub_(0.5).div_(0.5))


def test_a_model_that_writes_into_its_inputs_changes_nobody_elses():
    batch, example = torch.rand(16, 8), torch.rand(1, 8)
    before = batch.clone(), example.clone()
    compress(InPlace(), TruncatedSVD(rank=2), example=(example,), data=[batch], norm="full")
    assert torch.equal(batch, before[0]) and torch.equal(example, before[1])
