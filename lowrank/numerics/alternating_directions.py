"""Matrices of a given form in the full norm, by the alternating direction method of multipliers."""

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
    return project(settled(scaled, moment, lambda matrix: matrix * project(matrix), iterations))


def relative(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix over its largest magnitude, in float32, where no square then overflows; and that."""
    largest = matrix.abs().max()
    return (matrix / largest.where(largest > 0, 1)).float(), largest


def settled(
    scaled: Tensor,
    moment: Tensor,
    nearest: Callable[[Tensor], Tensor],
    iterations: int,
    penalties: tuple[float, float] = PENALTIES,
) -> Tensor:
    """The matrix (out, in) whose projection ADMM converges to, in the dtype of the weight.

    A growing penalty pulls a dense matrix near the weight in the norm, and its projection, together
    until they agree.

    Args:
        scaled, moment, iterations: as of `alternate`.
        nearest: the allowed matrix that is nearest to one in the Frobenius norm, or near it.
        penalties: of the first and of the last iteration.
    """
    _, correlation = correlations(moment)
    values, vectors = (part.to(scaled.dtype) for part in spectrum(correlation))
    (first, last), shifted = penalties, scaled
    dual, target = torch.zeros_like(scaled), scaled @ correlation.to(scaled.dtype)
    allowed = nearest(scaled)
    for step in range(iterations):
        penalty = first * (last / first) ** (step / (iterations - 1))
        dense = (target - dual + penalty * allowed) @ vectors / (values + penalty) @ vectors.T
        shifted = dense + dual / penalty
        allowed = nearest(shifted)
        dual += penalty * (dense - allowed)
    return shifted


@memoised
def spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors as columns of a symmetric matrix.

    Eigenvalues that rounding left below zero are set to zero.
    """
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp_min(0), vectors
