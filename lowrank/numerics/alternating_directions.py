"""The mask of a sparse matrix by the alternating direction method of multipliers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lowrank.numerics.memo import memoised
from lowrank.numerics.survivors import correlations

# The penalty of the first and of the last iteration, in mean eigenvalues of the correlations.
PENALTIES = (0.1, 1000.0)


def alternate(
    scaled: Tensor, moment: Tensor, project: Callable[[Tensor], Tensor], iterations: int
) -> Tensor:
    """The mask to which ADMM converges: that of the sparse copy of the weight.

    Args:
        scaled: the weight (out, in), each column times the root of its input's mean square.
        moment: (in, in).
        project: the mask of a matrix that keeps most of it in the Frobenius norm.
        iterations: at least 2.
    """
    _, correlation = correlations(moment)
    values, vectors = spectrum(correlation)
    first, last = PENALTIES
    kept, dual, target = project(scaled), torch.zeros_like(scaled), scaled @ correlation
    sparse = scaled * kept
    for step in range(iterations):
        penalty = first * (last / first) ** (step / (iterations - 1))
        dense = (target - dual + penalty * sparse) @ vectors / (values + penalty) @ vectors.T
        shifted = dense + dual / penalty
        kept = project(shifted)
        sparse = shifted * kept
        dual += penalty * (dense - sparse)
    return kept


@memoised
def spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors as columns of a symmetric matrix.

    Eigenvalues that rounding left below zero are set to zero.
    """
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp_min(0), vectors
