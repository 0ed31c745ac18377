"""What all low-rank factors have in common: the nearest ones in a norm, how they share the scale,
and when they are smaller."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lowrank.decomposers.decomposer import working
from lowrank.norms import Identity, Norm
from lowrank.numerics import memo, spectral


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


# An SVD and the product of its factors are off by up to 50 roundings of the largest weight (seen on
# matrices of rank 1 to 64 and up to 2000 rows), quantization to 8 bits by 2^14.
ROUNDINGS = 128


class Factors(NamedTuple):
    """left (out, rank), right (rank, in), and what a report should say of them."""

    left: Tensor
    right: Tensor
    note: str = ""


def nearest(weight: Tensor, rank: int, norm: Norm) -> Factors:
    """The balanced factors of the matrix of that rank that is nearest to `weight` in `norm`.

    With u the leading left singular vectors of A^{1/2} W R, where R Rᵀ = B, it is
    A^{-1/2} u uᵀ A^{1/2} W: the textbook's u s vᵀ R^{-1} wherever R has an inverse, without one.
    Where B is singular it keeps the projection of W, instead of zero or of rounding errors; and
    where the norm sees fewer than `rank` directions, the rest are those nearest to W in the plain
    norm: the limit of a damping that goes to zero. Rows that count nothing are projected onto the
    right factor, at no cost in the norm.

    Computed in float64 but for `Identity`: in float32 the error exceeds the least one by more than
    1e-6 of it where B has a condition of 1e12. The route is that of `spectral.leading`, which says
    how near it is, and one analysis serves all ranks.
    """
    if isinstance(norm, Identity):
        found, note = spectral.leading(working(weight), rank)
        return Factors(*truncated((found.u, found.s, found.vh), rank), note)
    weight = weight.double()
    rows = norm.row_weights(weight).sqrt()[:, None]
    scaled = rows * weight
    found, note = spectral.leading(norm.whiten(weight), rank)
    seen = min(rank, _rank_of(found.s, weight.shape))
    left = found.basis(seen)
    right = left.T @ scaled
    if seen < rank:
        u, s, vh = memo.svd(scaled - left @ right)
        rest = slice(rank - seen)
        left = torch.cat([left, u[:, rest]], dim=1)
        right = torch.cat([right, s[rest, None] * vh[rest]])
    left = left / rows.where(rows > 0, 1)
    if bool((rows == 0).any()):
        lengths = right.norm(dim=1)
        left, right = left * lengths, right / lengths.where(lengths > 0, 1)[:, None]
        # Nearly parallel rows of `right` would make a projection of large numbers that cancel.
        left = left.where(rows > 0, weight @ torch.linalg.pinv(right, rtol=1e-4))
    if seen < rank:
        note = f"the norm sees {seen} directions of the weight, the rest are of the plain norm"
    return Factors(*equally_scaled(left, right), note)


def beyond_rounding(rest: Tensor, weight: Tensor) -> Tensor:
    """What factors leave of a weight, or zero if it is no more than the rounding of its numbers.

    A base is not to represent that, for which it may have no scale that is small enough.
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
        right: (k, in), float64; perhaps with rows that are zero or depend on each other.
    """
    pulled = moment @ right.T
    return weight @ pulled @ torch.linalg.pinv(right @ pulled, hermitian=True)


def spectrum(weight: Tensor, norm: Norm) -> Tensor:
    """The singular values of the whitened weight, descending, float64; memoised.

    Σ s² is the squared norm of the weight, and Σ s[rank:]² the squared error of `nearest`, at every
    rank at which the factors are smaller than the weight.
    """
    whitened = working(weight) if isinstance(norm, Identity) else norm.whiten(weight.double())
    return spectral.singular_values(whitened, most_ranks(weight.shape))


def equally_scaled(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, each column of `left` (out, k) as long as its row of `right` (k, in).

    For the factors of an SVD it is what `balanced` gives.
    """
    columns, rows = left.norm(dim=0), right.norm(dim=1)
    balance = (rows / columns.where(columns > 0, 1)).sqrt()
    return left * balance, right / balance.where(balance > 0, 1)[:, None]


def _rank_of(s: Tensor, shape: tuple[int, ...]) -> int:
    """How many singular values of a matrix of that shape are more than rounding errors."""
    return int((s > max(shape) * torch.finfo(s.dtype).eps * s[0]).sum())


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
