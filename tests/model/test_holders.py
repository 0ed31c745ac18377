"""Weights that something else of a model holds."""

import functools

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import MagnitudePruning
from lowrank.model.holders import held_weights

METHOD = MagnitudePruning(0.9)


def network():
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


class Holder:
    """Of another library, such as a router."""

    def __init__(self, thing):
        self.thing = thing


@pytest.mark.parametrize(
    "hold",
    [
        lambda layer: [layer],
        lambda layer: {"a": (layer,)},
        lambda layer: layer.weight,
        lambda layer: layer.forward,
        lambda layer: functools.partial(nn.functional.linear, weight=layer.weight),
        lambda layer: lambda x: layer(x),
        lambda layer,: lambda x, run=layer: run(x),
        Holder,
    ],
)
def test_a_weight_that_something_else_holds_is_left_and_said(hold):
    model = network()
    object.__setattr__(model, "shortcut", hold(model[0]))
    result = compress(model, METHOD)
    assert [layer.name for layer in result.layers] == ["2"]
    assert dict(result.skipped)["0.weight"].startswith("'shortcut' holds it too")


def compiled(model):
    return torch.compile(model.forward, backend="eager")


def wrapped(model):
    run = model.forward

    @functools.wraps(run)
    def forward(x):
        return run(x)

    return forward


@pytest.mark.parametrize(
    "wrap", [compiled, wrapped, lambda m: torch.no_grad()(m.forward), lambda m: lambda x: m[2](x)]
)
def test_a_model_whose_forward_is_a_closure_is_not_compressed(wrap):
    """It goes on with the model of which it was made, whatever becomes of the copy."""
    model = network()
    model.forward = wrap(model)
    with pytest.raises(ValueError, match="2.weight: 'forward' holds it too, and would run it"):
        compress(model, METHOD, where="2")


def partly(model):
    model.old = model.forward
    model.forward = functools.partial(lambda self, x: self.old(x), model)


def bound(model):
    model.forward = model.forward


@pytest.mark.parametrize(
    "change", [partly, bound, functools.partial(nn.Module.compile, backend="eager")]
)
def test_what_a_copy_of_the_model_has_its_own_of_is_compressed(change):
    model, x = network(), torch.randn(4, 8)
    change(model)
    assert not held_weights(model)
    result = compress(model, METHOD)
    plain = compress(network_like(model), METHOD).model
    torch.testing.assert_close(result.model(x), plain(x))


def network_like(model):
    plain = network()
    plain.load_state_dict(model.state_dict())
    return plain
