"""Second moments E[x xᵀ]: a test of positive semi-definiteness, and square roots."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from lowrank.numerics import memo

# The largest magnitude of a negative eigenvalue, as a share of the moment's Frobenius norm.
TOLERANCE = 1e-4


@memo.memoised
def whitened(matrix: Tensor, moment: Tensor) -> Tensor:
    """M R with R Rᵀ = `moment`, in float64."""
    return matrix.double() @ square_root(moment)


@memo.memoised
def is_semidefinite(moment: Tensor) -> bool:
    """Whether no eigenvalue is below zero by more than the rounding errors of sums in float32.

    By a Cholesky decomposition, which costs a few per cent of the eigenvalues.
    """
    shifted = moment.clone()
    # The norm is at least the largest eigenvalue, the scale of rounding errors.
    shifted.diagonal().add_(TOLERANCE * torch.linalg.matrix_norm(moment))
    return not int(torch.linalg.cholesky_ex(shifted).info)


def refuse_indefinite(moment: Tensor) -> NoReturn:
    """Raise ValueError that states the negative eigenvalues."""
    values = torch.linalg.eigvalsh(moment)
    raise ValueError(
        f"a second moment has no negative eigenvalues, and this matrix has {values[0]:.3g} "
        f"beside {values[-1]:.3g}: calibrate anew"
    )


@memo.memoised
def square_root(moment: Tensor) -> Tensor:
    """R (in, in) with R Rᵀ = `moment`, by eigen-decomposition; valid for singular moments too.

    Eigenvalues within the rounding errors of the largest, negative ones too, are zero: their roots
    would be half as many digits large.

    Raises:
        ValueError: the matrix is far from positive semi-definite.
    """
    values, vectors = torch.linalg.eigh(moment)
    if values[0] < -TOLERANCE * torch.linalg.vector_norm(values):
        refuse_indefinite(moment)
    floor = len(values) * torch.finfo(values.dtype).eps * values[-1]
    return vectors * values.where(values > floor, 0).sqrt()
