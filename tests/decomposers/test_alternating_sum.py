"""Sums by alternation: each part of what the others leave."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random

from lowrank.decomposers import (
    GPTQ,
    AlternatingSum,
    CodebookQuantization,
    LowRankPlusSparse,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
)
from lowrank.factorizations import Codebook, Product, Sparse, Sum
from lowrank.norms import IDENTITY, Diagonal


def error(weight, form, norm=IDENTITY):
    return norm(weight - form.to_dense().detach())


@settings(max_examples=8)
@given(st.integers(1, 5), st.floats(0.8, 0.98), st.integers(0, 100))
def test_two_methods_that_are_nearest_are_godec(rank, sparsity, seed):
    """As a method of its own for the same sum gives; all but its last half step."""
    weight = random(30, 40, seed=seed)
    parts = [TruncatedSVD(rank=rank), MagnitudePruning(sparsity)]
    ours = AlternatingSum(parts, iterations=6).decompose(weight)
    theirs = LowRankPlusSparse(rank, sparsity, iterations=6).decompose(weight)
    torch.testing.assert_close(ours.to_dense(), theirs.to_dense(), rtol=1e-6, atol=1e-9)


@settings(max_examples=8)
@given(st.integers(1, 3), st.floats(0.9, 0.99), st.integers(0, 100))
def test_the_error_never_grows_and_a_second_part_only_helps(bits, sparsity, seed):
    weight = random(30, 40, seed=seed)
    parts = [CodebookQuantization(bits), MagnitudePruning(sparsity)]
    errors = [error(weight, AlternatingSum(parts, n).decompose(weight)) for n in (1, 2, 4, 8)]
    assert all(b <= a * (1 + 1e-12) for a, b in zip(errors, errors[1:], strict=False))
    assert errors[0] < error(weight, parts[0].decompose(weight))
    # No survivor is nearer to what the codebook leaves than the ones that stay.
    sparse, codebook = reversed(AlternatingSum(parts, 8).decompose(weight).terms)
    left = (weight - codebook.to_dense())[~sparse.mask].abs()
    kept = (weight - codebook.to_dense())[sparse.mask].abs()
    assert kept.min() >= left.max()


def test_planted_parts_are_found_exactly():
    signs = 0.3 * random(40, 50).sign()
    spikes = 10 * (random(40, 50, seed=1) > 2.2) * random(40, 50, seed=2).sign()
    weight = signs + spikes
    sparsity = 1 - float((spikes != 0).double().mean())
    form = AlternatingSum([MagnitudePruning(sparsity), CodebookQuantization(1)]).decompose(weight)
    assert isinstance(form, Sum)
    assert [type(term) for term in form.terms] == [Sparse, Codebook]
    assert error(weight, form) < 1e-12 * float(weight.norm())


def test_three_parts_in_a_norm_that_all_know():
    weight, norm = random(20, 30), Diagonal(torch.linspace(0.1, 2, 30).double())
    parts = [TruncatedSVD(rank=2), MagnitudePruning(0.9), Quantization(3, scale="mse")]
    form = AlternatingSum(parts, 4).decompose(weight, norm)
    assert [type(term) for term in form.terms][:2] == [Product, Sparse]
    assert error(weight, form, norm) < error(weight, parts[2].decompose(weight, norm), norm)


def test_a_part_that_does_not_know_the_norm_is_named():
    method = AlternatingSum([TruncatedSVD(rank=2), CodebookQuantization(1)])
    with pytest.raises(ValueError, match="part 2 of AlternatingSum, CodebookQ.*cannot approximate"):
        method.decompose(random(8, 9), Diagonal(torch.ones(9).double()))


def test_kernels_are_seen_as_one_of_the_parts_asks_for():
    views = [MagnitudePruning(0.5), TruncatedSVD(rank=2, view="spatial")]
    assert AlternatingSum(views).kernel_view() == "spatial"
    assert AlternatingSum([MagnitudePruning(0.5), GPTQ(4)]).kernel_view() == "channel"


def test_the_nearest_level_of_a_part_is_that_of_the_sum():
    method = AlternatingSum([MagnitudePruning(0.999), CodebookQuantization(1)], 3)
    with pytest.raises(ValueError, match="part 1 of AlternatingSum.*keeps none") as caught:
        method.decompose(random(4, 5))
    nearest = caught.value.nearest
    assert nearest == AlternatingSum([MagnitudePruning(0.95), CodebookQuantization(1)], 3)
