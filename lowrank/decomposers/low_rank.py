"""What all low-rank factors have in common: how they share the scale, and when they are smaller."""

from __future__ import annotations

from torch import Tensor


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


def factored_params(shape: tuple[int, ...], rank: int) -> int:
    """Parameters of two factors of a matrix (out, in)."""
    return rank * (shape[0] + shape[1])


def is_smaller(shape: tuple[int, ...], rank: int) -> bool:
    """Whether two factors of a matrix (out, in) have fewer parameters than the matrix."""
    return factored_params(shape, rank) < shape[0] * shape[1]


def stored_params(shape: tuple[int, ...], rank: int) -> int:
    """Parameters of a truncated SVD of a matrix (out, in), which stays dense if not smaller."""
    return min(factored_params(shape, rank), shape[0] * shape[1])
