"""Products of two thin factors: their norm, and the nearest ones of a smaller rank.

Neither multiplies them out, nor makes anything of the size of the product.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lowrank.approximation.low_rank import Factors
from lowrank.norms import Full, Identity, Norm
from lowrank.numerics.factors import equally_scaled


class Core(NamedTuple):
    """A^{1/2} left @ right R = basis · core · an orthonormal basis of rows, with R Rᵀ = B.

    Attributes:
        basis: (out, r), orthonormal columns.
        outer: (r, r), A^{1/2} left = basis · outer.
        core: (r, r), with the singular values of the whitened product.
    """

    basis: Tensor
    outer: Tensor
    core: Tensor


def core_of(left: Tensor, right: Tensor, norm: Norm) -> Core:
    """The core of a product of left (out, r) and right (r, in), float64, in O((out + in) r²)."""
    rows = norm.row_weights(left).sqrt()[:, None]
    seen = right
    if not isinstance(norm, Identity):
        seen = Full(norm.second_moment(right)).whiten(right)
    columns = torch.linalg.qr(rows * left)
    return Core(columns.Q, columns.R, columns.R @ torch.linalg.qr(seen.T).R.T)


def product_norm(left: Tensor, right: Tensor, norm: Norm) -> float:
    """‖left @ right‖ in a norm for matrices (out, in)."""
    return float(torch.linalg.matrix_norm(core_of(left.double(), right.double(), norm).core))


def truncated_product(left: Tensor, right: Tensor, rank: int, norm: Norm) -> Factors:
    """The balanced factors of that rank whose product is nearest to left @ right in a norm.

    With u the leading left singular vectors of the core, times its basis, it is
    A^{-1/2} u uᵀ A^{1/2} left @ right, as `nearest` makes it of a whole matrix.

    Args:
        left: (out, r).
        right: (r, in).
        rank: 1 ≤ rank ≤ r.
        norm: one for matrices (out, in).
    """
    left, right = left.double(), right.double()
    rows = norm.row_weights(left).sqrt()[:, None]
    basis, outer, core = core_of(left, right, norm)
    kept = torch.linalg.svd(core).U[:, :rank]
    smaller = kept.T @ outer @ right
    # A row that the norm does not see is projected onto the right factor, at no cost in it.
    projected = left @ (right @ torch.linalg.pinv(smaller))
    larger = (basis @ kept / rows.where(rows > 0, 1)).where(rows > 0, projected)
    return Factors(*equally_scaled(larger, smaller))
