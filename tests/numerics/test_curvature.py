"""The factor of the inverse second moment, against the inverse itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowrank.numerics.curvature import ESCALATION, inverse_factor
from lowrank.numerics.memo import MEMO


def moment(samples: int, inner: int = 8, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, inner, generator=generator, dtype=torch.float64)
    return x.T @ x * (scale / samples)


def shifted(matrix: Tensor, share: float) -> Tensor:
    return matrix + share * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(0, 1000), st.sampled_from([1e-12, 1.0, 1e12]))
def test_it_is_the_upper_cholesky_factor_of_the_inverse(inner, seed, scale):
    matrix = moment(3 * inner, inner, seed, scale)
    factor, share = inverse_factor(matrix)
    inverse = np.linalg.inv(matrix.numpy())
    np.testing.assert_allclose(factor.numpy(), np.linalg.cholesky(inverse).T, rtol=1e-6)
    assert share == 0
    assert factor.dtype == torch.float64
    assert torch.equal(factor, factor.triu())


def test_its_rows_are_the_best_compensation():
    """For a change of column j by 1, the changes of the later ones that leave the least error."""
    matrix = moment(30)
    factor, _ = inverse_factor(matrix)
    for j in range(7):
        later = slice(j + 1, None)
        best = torch.linalg.solve(matrix[later, later], -matrix[later, j])
        torch.testing.assert_close(factor[j, later] / factor[j, j], best)
        error = torch.cat([torch.ones(1, dtype=torch.float64), best])
        least = error @ matrix[j:, j:] @ error
        torch.testing.assert_close(1 / factor[j, j] ** 2, least)


@pytest.mark.parametrize("samples", [1, 3, 7])
def test_a_singular_matrix_is_shifted_and_says_so(samples):
    matrix = moment(samples)
    factor, share = inverse_factor(matrix)
    assert share in ESCALATION[1:]
    assert share <= 1e-8
    # The errors of an inverse grow with the condition of what is inverted.
    back = torch.linalg.inv(factor.T @ factor)
    torch.testing.assert_close(back, shifted(matrix, share), rtol=1e-5, atol=1e-5)


def test_a_dead_input_is_shifted_and_says_so():
    matrix = moment(30)
    matrix[2], matrix[:, 2] = 0, 0
    factor, share = inverse_factor(matrix)
    assert share > 0
    assert bool(factor.isfinite().all())
    # Nothing that happens to it concerns the others.
    assert bool((factor[2, 3:] == 0).all()) and bool((factor[:2, 2] == 0).all())


def test_damping_given_beforehand_needs_no_shift():
    assert inverse_factor(shifted(moment(1), 0.01))[1] == 0


def test_the_shift_is_the_least_that_is_enough():
    matrix = moment(3)
    _, share = inverse_factor(matrix)
    smaller = ESCALATION[: ESCALATION.index(share)]
    for less in smaller:
        pivots = torch.linalg.cholesky_ex(shifted(matrix, less).flip(0, 1))
        definite = int(pivots.info) == 0
        assert not definite or pivots.L.diagonal().min() ** 2 <= 1e-12 * matrix.diagonal().mean()


def test_slightly_indefinite_rounding_is_shifted():
    matrix = moment(3).float().double()
    assert torch.linalg.eigvalsh(matrix)[0] < 0
    factor, share = inverse_factor(matrix)
    assert 0 < share <= 1e-6
    assert bool(factor.isfinite().all())


@pytest.mark.parametrize(
    "matrix", [torch.tensor([[1.0, 3.0], [3.0, 1.0]]), torch.diag(torch.tensor([1.0, -3.0]))]
)
def test_an_indefinite_matrix_is_refused(matrix):
    with pytest.raises(ValueError, match="stays indefinite with its mean added .* Calibrate anew"):
        inverse_factor(matrix)


def test_it_is_paid_once():
    MEMO.clear()
    one, again = inverse_factor(moment(20)), inverse_factor(moment(20))
    assert one[0] is again[0] and (MEMO.misses, MEMO.hits) == (1, 1)
