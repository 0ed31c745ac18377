"""Adapted weights taken apart and put together."""

import pytest
import torch
from made_tensors import random

from lowrank.decomposers import DoRA, LoRA, LoRAXS, Quantization, SharedLoRA, VeRA
from lowrank.factorizations import Dense, Product, Scaled, Sum
from lowrank.factorizations.adapted import low_rank, taken_apart, together

METHODS = {
    "LoRA": LoRA(3, 5, dropout=0.5),
    "LoRA over codes": LoRA(3, 5, dropout=0.5, base=Quantization(4)),
    "LoRA-XS": LoRAXS(3, 5, dropout=0.5),
    "VeRA": VeRA(3, dropout=0.5),
    "a shared factor": SharedLoRA(3, 5, dropout=0.5),
    "one for the base, too": SharedLoRA(3, 5, dropout=0.5, compress_base=True),
    "DoRA": DoRA(LoRA(3, 5, dropout=0.5)),
}


def trained(method):
    form = method.decompose(random(10, 8).float())
    with torch.no_grad():
        for number, parameter in enumerate(p for p in form.parameters() if p.requires_grad):
            parameter.add_(0.1 * random(*parameter.shape, seed=number).float())
    return form.eval()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_base_and_product_are_the_weight(method):
    form = trained(method)
    parts = taken_apart(form)
    term = low_rank(parts.terms)
    assert term.rank == 3 and term.dropout == 0.5
    weight = parts.base.to_dense() + term.scale * term.left @ term.right
    if parts.lengths is not None:
        weight = weight * (parts.lengths / weight.norm(dim=1))[:, None]
    torch.testing.assert_close(weight, form.to_dense())
    torch.testing.assert_close(together(parts).to_dense(), form.to_dense())


def test_two_factors_are_given_to_the_bit_with_their_scale():
    form = trained(METHODS["LoRA"])
    left, right = (factor.weight for factor in form.terms[1].term.factors)
    term = low_rank(taken_apart(form).terms)
    assert torch.equal(term.left, left) and torch.equal(term.right, right)
    assert term.scale == 5 / 3


def test_the_base_is_the_frozen_one_of_several_products():
    frozen = Product(Dense(random(6, 2)), Dense(random(2, 6))).requires_grad_(False)
    other = Product(Dense(random(6, 1)), Dense(random(1, 6)))
    assert taken_apart(Sum(other, frozen)).base is frozen
    both = Sum(Scaled(other, 2.0), frozen).requires_grad_(False)
    assert taken_apart(both).base is frozen
    with pytest.raises(ValueError, match="the base is to be"):
        taken_apart(Sum(other, frozen).requires_grad_(True))


def test_dropout_between_factors_is_none_of_the_inputs():
    form = SharedLoRA(2, 4, dropout=0.5, side="right", compress_base=True).decompose(random(6, 6))
    with pytest.raises(ValueError, match="dropout acts between its factors"):
        low_rank(taken_apart(form).terms)


def test_terms_of_different_dropout_are_not_one():
    terms = [
        Scaled(Product(Dense(random(6, 1)), Dense(random(1, 6))), 1.0, dropout)
        for dropout in (0.1, 0.2)
    ]
    with pytest.raises(ValueError, match=r"dropout \[0.1, 0.2\], and not one"):
        low_rank(terms)
