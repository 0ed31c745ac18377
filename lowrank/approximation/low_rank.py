"""The nearest matrix of a given rank in a norm, and the singular values that give its error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lowrank.norms import Identity, Norm
from lowrank.numerics import memo, spectral
from lowrank.numerics.factors import equally_scaled, most_ranks, truncated
from lowrank.numerics.precision import working


class Factors(NamedTuple):
    """left (out, rank), right (rank, in), and a note for the report."""

    left: Tensor
    right: Tensor
    notes: tuple[str, ...] = ()


def nearest(weight: Tensor, rank: int, norm: Norm) -> Factors:
    """The balanced factors of the matrix of that rank that is nearest to `weight` in `norm`.

    With u the leading left singular vectors of A^{1/2} W R, where R Rᵀ = B, it is
    A^{-1/2} u uᵀ A^{1/2} W: the textbook's u s vᵀ R^{-1} wherever R has an inverse, without one.
    Where B is singular it keeps the projection of W, instead of zero or of rounding errors. Where
    A^{1/2} W R has fewer than `rank` directions, the others are those of least error in the
    Frobenius norm: the limit of a damping that goes to zero. Rows of weight zero are projected onto
    the right factor, at no cost in the norm.

    Computed in float64 except for `Identity`: in float32 the error exceeds the least one by more
    than 1e-6 of it where B has a condition number of 1e12. `spectral.leading` chooses the route and
    bounds the error; one analysis serves all ranks.
    """
    if isinstance(norm, Identity):
        found, notes = spectral.leading(working(weight), rank)
        return Factors(*truncated((found.u, found.s, found.vh), rank), notes)
    weight = weight.double()
    rows = norm.row_weights(weight).sqrt()[:, None]
    scaled = rows * weight
    found, notes = spectral.leading(norm.whiten(weight), rank)
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
        notes += (f"the norm sees {seen} directions of the weight, the rest are of the plain norm",)
    return Factors(*equally_scaled(left, right), notes)


class Triplets(NamedTuple):
    """u (out, rank), s (rank,) descending, vh (rank, in), and notes for the report."""

    u: Tensor
    s: Tensor
    vh: Tensor
    notes: tuple[str, ...]


def nearest_svd(weight: Tensor, rank: int, norm: Norm) -> Triplets:
    """The singular value decomposition of `nearest`, its vectors orthonormal at any rank of W."""
    left, right, notes = nearest(weight, rank, norm)
    columns, rows = torch.linalg.qr(left), torch.linalg.qr(right.T)
    u, s, vh = torch.linalg.svd(columns.R @ rows.R.T)
    return Triplets(columns.Q @ u, s, vh @ rows.Q.T, notes)


def spectrum(weight: Tensor, norm: Norm) -> Tensor:
    """The singular values of the whitened weight, descending, float64; memoised.

    Σ s² is the squared norm of the weight, and Σ s[rank:]² the squared error of `nearest`, at every
    rank at which the factors are smaller than the weight.
    """
    whitened = working(weight) if isinstance(norm, Identity) else norm.whiten(weight.double())
    return spectral.singular_values(whitened, most_ranks(weight.shape))


def _rank_of(s: Tensor, shape: tuple[int, ...]) -> int:
    """The number of singular values of a matrix of that shape beyond rounding errors."""
    return int((s > max(shape) * torch.finfo(s.dtype).eps * s[0]).sum())
