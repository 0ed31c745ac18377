"""Two thin factors of a matrix: how they share its scale, and when they are smaller."""

from __future__ import annotations

import torch
from torch import Tensor

# The product of an SVD's factors is off by up to 50 roundings of the largest weight (measured on
# matrices of rank 1 to 64 and up to 2000 rows); quantization to 8 bits is off by 2^14.
ROUNDINGS = 128


def balanced(u: Tensor, s: Tensor, vh: Tensor) -> tuple[Tensor, Tensor]:
    """left (out, k), right (k, in) with left @ right = u diag(s) vh, for u (out, k), vh (k, in).

    √s goes to each side: equally scaled factors fine-tune with one learning rate.
    """
    root = s.sqrt()
    return u * root, root[:, None] * vh


def truncated(svd: tuple[Tensor, Tensor, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """The balanced factors of the `rank` largest singular values."""
    u, s, vh = svd
    return balanced(u[:, :rank], s[:rank], vh[:rank])


def equally_scaled(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, each column of `left` (out, k) as long as its row of `right` (k, in).

    For the factors of an SVD it is what `balanced` gives.
    """
    columns, rows = left.norm(dim=0), right.norm(dim=1)
    balance = (rows / columns.where(columns > 0, 1)).sqrt()
    return left * balance, right / balance.where(balance > 0, 1)[:, None]


def beyond_rounding(rest: Tensor, weight: Tensor) -> Tensor:
    """The residual of a factored weight, or zero if it is no larger than the rounding errors.

    A quantized base must not represent rounding errors: its dtype may have no scale that small.
    """
    eps = torch.finfo(torch.promote_types(weight.dtype, torch.float32)).eps
    noise = ROUNDINGS * eps * weight.abs().max()
    return rest if bool(rest.abs().max() > noise) else torch.zeros_like(rest)


def fitted(weight: Tensor, moment: Tensor, right: Tensor) -> Tensor:
    """The left (out, k) with which left @ right is nearest to a weight, by least squares.

    Weights of rows do not change it.

    Args:
        weight: (out, in), float64.
        moment: B, (in, in).
        right: (k, in), float64; its rows may be zero or linearly dependent.
    """
    pulled = moment @ right.T
    return weight @ pulled @ torch.linalg.pinv(right @ pulled, hermitian=True)


def factored_params(shape: tuple[int, ...], rank: int) -> int:
    """Parameters of two factors of a matrix (out, in)."""
    return rank * (shape[0] + shape[1])


def is_smaller(shape: tuple[int, ...], rank: int) -> bool:
    """Whether two factors of a matrix (out, in) have fewer parameters than the matrix."""
    return factored_params(shape, rank) < shape[0] * shape[1]


def most_ranks(shape: tuple[int, ...]) -> int:
    """The largest rank of factors that have no more parameters than the matrix (out, in)."""
    return shape[0] * shape[1] // (shape[0] + shape[1])


def stored_params(shape: tuple[int, ...], rank: int) -> int:
    """Parameters of a truncated SVD of a matrix (out, in), which stays dense if not smaller."""
    return min(factored_params(shape, rank), shape[0] * shape[1])
