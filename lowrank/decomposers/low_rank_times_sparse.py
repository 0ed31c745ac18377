"""Low rank times sparse: a thin dense factor and a sparse one."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.approximation.comparison import better_than_svd
from lowrank.approximation.joint_parts import PAYS
from lowrank.approximation.joint_product import joint_codes
from lowrank.approximation.sparse_part import SparseMatrix, SparsePart
from lowrank.decomposers.decomposer import Decomposer, Unfit, check_rank, count_of
from lowrank.factorizations import Dense, Factorization, Product, Sparse
from lowrank.factorizations.block_grid import BlockGrid
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics import memo
from lowrank.numerics.checks import (
    check_exactly_one,
    check_integer,
    check_one_of,
    check_ratio,
    check_sparsity,
)
from lowrank.numerics.curvature import is_diagonal
from lowrank.numerics.factors import equally_scaled, fitted
from lowrank.numerics.storage import stored_bytes
from lowrank.numerics.survivors import exact_update


@dataclass(frozen=True)
class LowRankTimesSparse(Decomposer):
    """W ≈ left @ S with left (out, rank) dense and S (rank, in) sparse, by alternation.

    Every column of W is a combination of a few columns of `left`, so at the same bytes the rank can
    be higher than that of a truncated SVD. The alternation starts there, and with `left`
    orthonormal in the weights of the rows it splits: S is to come near leftᵀ W in the norm of the
    inputs (in the identity and diagonal norms its largest entries are the best, in the full norm
    the best values for its mask), and with S fixed the best such `left` is a Procrustes problem
    that one small SVD solves. So the error in the norm never grows. In the full norm the
    alternating direction method of multipliers finds both factors together before, as `ALPS` finds
    a mask, and the mask stays. At the end `left`, no longer orthonormal, is fitted to S by least
    squares.

    It pays where plain SVD does, and gains most on wide matrices (in much larger than out), where S
    is the larger factor; where the truncated SVD of the same bytes is nearer, that one comes back
    with a note. It does not pay against pruning where the spectrum is flat: at full rank it
    contains pruning (left = 1), but then `left` costs out² more. The zeros save bytes and no time.
    A layer that would not be smaller stays dense, and the note of its factorization says so.

    Exactly one of `rank` and `compression_ratio` is given.

    Args:
        rank: 1 ≤ rank ≤ min(out, in).
        compression_ratio: the largest possible rank with which this matrix alone, the index of S
            included, reaches this ratio in bytes; at least 1.
        sparsity: share of zeros in S, in [0, 1).
        iterations: of the alternation, at least 0; each costs one SVD of an out × rank matrix, and
            in the full norm the values of an `ALPS` of a rank × in matrix. There it ends where one
            takes less than 1 % off the error.
        view: as which matrix a convolution's kernel is seen (see `Convolve`).

    Source: Bao, Cai & Ji, ICCV 2013 (learning an orthogonal dictionary by hard thresholding and
    Procrustes); Schönemann, Psychometrika 31(1), 1966 (Procrustes).
    """

    family: ClassVar[str] = "hybrid"
    norms: ClassVar[tuple[type[Norm], ...]] = (Identity, Diagonal, Full)

    rank: int | None = None
    compression_ratio: float | None = None
    sparsity: float = 0.5
    iterations: int = 20
    view: KernelView = "channel"

    def __post_init__(self) -> None:
        options = {"rank": self.rank, "compression_ratio": self.compression_ratio}
        check_exactly_one("LowRankTimesSparse", options)
        check_sparsity(self.sparsity)
        if self.rank is not None:
            check_integer("rank", self.rank, least=1)
        if self.compression_ratio is not None:
            check_ratio(self.compression_ratio)
        check_integer("iterations", self.iterations, least=0)
        check_one_of("view", self.view, KERNEL_VIEWS)

    def kernel_view(self) -> KernelView:
        return self.view

    def check_shape(self, weight: Tensor) -> None:
        count_of(self.sparsity, self.rank_for(weight) * weight.shape[1])

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        weight = weight.contiguous()  # In float32, other strides round otherwise.
        rank = self.rank_for(weight)
        count = count_of(self.sparsity, rank * weight.shape[1])
        inputs = Full(norm.second_moment(weight))
        sparse = self._alternate(weight.double(), norm, SparsePart(inputs, count), rank)
        left = fitted(weight.double(), inputs.moment, sparse.values)
        _, right = equally_scaled(left, sparse.values)
        values = Sparse.from_dense(right.to(weight.dtype), sparse.kept)
        # To the sparse factor as it is stored, so that it compensates its rounding too.
        left = fitted(weight.double(), inputs.moment, values.to_dense().detach().double())
        return better_than_svd(weight, norm, Product(Dense(left.to(weight.dtype)), values))

    def _alternate(self, weight: Tensor, norm: Norm, part: SparsePart, rank: int) -> SparseMatrix:
        """S (rank, in) for a left that is orthonormal in the weights of the rows."""
        scaled = norm.row_weights(weight).sqrt()[:, None] * weight
        pulled = scaled @ part.norm.second_moment(weight)
        moment = part.norm.second_moment(weight)
        left = memo.svd(norm.whiten(weight))[0][:, :rank]
        together = not is_diagonal(moment)
        if together:
            sparse = joint_codes(scaled, moment, left, part.count)
        else:
            sparse = part.nearest(left.T @ scaled)
        error = math.inf
        for _ in range(self.iterations):
            left = procrustes(pulled @ sparse.values.T)
            if not together:
                sparse = part.nearest(left.T @ scaled)
                continue
            values = exact_update(left.T @ scaled, sparse.kept, moment)
            sparse = SparseMatrix(values, sparse.kept)
            before, error = error, part.norm(scaled - left @ values)
            if error >= (1 - PAYS) * before:
                break
        return sparse

    def rank_for(self, weight: Tensor) -> int:
        """The rank that this decomposer gives a weight of shape (out, in).

        Raises:
            Unfit: `rank` does not fit the shape, or even rank 1 misses `compression_ratio`.
        """
        out, inner = weight.shape
        ranks = range(1, min(out, inner) + 1)
        if self.rank is not None:
            check_rank(self.rank, weight)
            return self.rank
        assert self.compression_ratio is not None

        def nbytes(rank: int) -> int:
            grid = BlockGrid((rank, inner))
            kept = count_of(self.sparsity, grid.count)
            sparse = grid.stored_bytes(kept, weight.itemsize)
            return rank * out * weight.itemsize + sparse

        dense = stored_bytes(weight)
        rank = bisect_right(ranks, dense / self.compression_ratio, key=nbytes)
        if rank < 1:
            raise Unfit(
                f"compression_ratio={self.compression_ratio} is out of reach for a weight of shape "
                f"({out}, {inner}): rank 1 gives {dense / nbytes(1):.3g}. Lower it, or "
                "leave this layer out with `where`.",
                nearest=replace(self, compression_ratio=None, rank=1),
            )
        return rank


def procrustes(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns to one (out, rank)."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh
