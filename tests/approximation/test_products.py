"""Truncated products of factors, against the truncation of the matrix that they make."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import random

from lowrank.approximation.low_rank import nearest
from lowrank.approximation.products import product_norm, truncated_product
from lowrank.norms import IDENTITY, Diagonal, Full

COLUMNS, ROWS = torch.arange(1.0, 13), torch.tensor([4.0, 1, 0.5, 2, 9, 1, 3, 1, 1, 2])
INPUTS = random(40, 12, seed=5).double()
NORMS = {
    "identity": IDENTITY,
    "diagonal": Diagonal(COLUMNS, ROWS),
    "full": Full(INPUTS.T @ INPUTS, ROWS),
    "a row unseen": Diagonal(COLUMNS, ROWS.where(ROWS < 9, 0)),
}


def factors(rank=6):
    return random(10, rank, seed=1).double(), random(rank, 12, seed=2).double()


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_it_is_the_nearest_matrix_of_the_product(norm, rank):
    left, right = factors()
    found = truncated_product(left, right, rank, norm)
    wanted = nearest(left @ right, rank, norm)
    assert found.left.shape == (10, rank) and found.right.shape == (rank, 12)
    product = left @ right
    error, least = (norm(product - f.left @ f.right) for f in (found, wanted))
    assert error == pytest.approx(least, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_the_norm_is_that_of_the_product(norm):
    left, right = factors()
    assert product_norm(left, right, norm) == pytest.approx(norm(left @ right))


@given(st.integers(1, 6), st.integers(0, 99))
def test_a_product_of_lower_rank_is_kept_exactly(rank, seed):
    left = random(10, rank, seed=seed).double() @ random(rank, 6, seed=seed + 1).double()
    right = random(6, 12, seed=seed + 2).double()
    found = truncated_product(left, right, rank, IDENTITY)
    torch.testing.assert_close(found.left @ found.right, left @ right)
