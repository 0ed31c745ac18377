"""VeRA: random factors of the sides and the seed alone, which layers share, and trained scales."""

import pytest
import torch
from made_tensors import random_by_sides as random
from torch import nn

import lowrank
from lowrank import measure
from lowrank.decomposers import Quantization, VeRA
from lowrank.factorizations import Factorization


def pieces(form: Factorization) -> tuple[torch.Tensor, ...]:
    """b, left, d, right"""
    first, last = form.terms[1].term.factors
    return first.scale, first.term.weight, last.scale, last.term.weight


def test_it_is_the_formula_of_the_paper():
    weight = random(20, 30)
    form = VeRA(50, start=0.3).decompose(weight)
    b, left, d, right = pieces(form)
    assert torch.equal(form.to_dense(), weight) and bool((d == 0.3).all())
    with torch.no_grad():
        b.copy_(random(20, 1)[:, 0])
        d.copy_(random(50, 1)[:, 0])
    torch.testing.assert_close(form.to_dense(), weight + b.diag() @ left @ d.diag() @ right)


def test_the_factors_are_drawn_as_by_kaiming():
    _, left, _, right = pieces(VeRA(50).decompose(random(300, 400)))
    for factor in (left, right):
        bound = (6 / factor.shape[1]) ** 0.5
        assert 0.99 * bound < float(factor.abs().max()) <= bound
        assert float(factor.std()) == pytest.approx(bound / 3**0.5, rel=0.03)


def test_they_follow_from_seed_and_sides_and_smaller_ones_are_the_first_rows():
    _, left, _, right = pieces(VeRA(5).decompose(random(20, 30)))
    _, same, _, narrow = pieces(VeRA(5).decompose(random(20, 17, seed=4)))
    _, low, _, twin = pieces(VeRA(5).decompose(random(13, 30)))
    assert torch.equal(left, same) and torch.equal(right, twin)
    assert torch.equal(low, left[:13])
    torch.testing.assert_close(narrow * 17**0.5, right[:, :17] * 30**0.5)
    assert not torch.equal(left, pieces(VeRA(5, seed=1).decompose(random(20, 30)))[1])


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = [(16, 24), (24, 24), (24, 24), (24, 4)]
        return nn.Sequential(*(nn.Linear(*size, bias=False) for size in sizes))


@pytest.mark.parametrize("values", [None, "float16"])
@pytest.mark.parametrize("method", [VeRA(10), {"0": VeRA(10), "*": VeRA(10)}], ids=["all", "named"])
def test_layers_of_equal_sides_hold_and_store_one_factor(method, values, tmp_path):
    model = network()
    result = lowrank.compress(model, method, values=values)
    dense, scales = sum(p.numel() for p in model.parameters()), 24 * 3 + 4 + 4 * 10
    factors = 10 * (24 + 4 + 16 + 24)
    assert measure.params(result.model) == dense + factors + scales
    assert sum(layer.params for layer in result.layers) == dense + factors + scales
    assert measure.trainable_params(result.model) == scales
    assert sum(layer.bytes for layer in result.layers) == measure.nbytes(result.model)
    path = tmp_path / "vera.safetensors"
    lowrank.save(result.model, path)
    again = lowrank.load(path, model)
    assert measure.nbytes(again) == measure.nbytes(result.model)
    x = torch.ones(2, 16)
    assert torch.equal(again(x), result.model(x))
    notes = [note for layer in result.layers for note in layer.notes]
    assert len(notes) == 3 and all("shares frozen factors" in note for note in notes)


def test_other_seeds_share_nothing():
    result = lowrank.compress(network(), {"0": VeRA(10), "1": VeRA(10, seed=1), "*": VeRA(9)})
    assert [len(layer.notes) for layer in result.layers] == [0, 0, 0, 1]


def test_the_rank_may_be_above_the_sides_but_not_below_1():
    assert VeRA(100, base=Quantization(3)).decompose(random(2, 3)).shape == (2, 3)
    assert VeRA(100).trained((20, 30)) == 120
    for options, text in (({"rank": 0}, "rank=0"), ({"rank": 4, "start": 0}, "start=0 must be ab")):
        with pytest.raises(ValueError, match=text):
            VeRA(**options)
