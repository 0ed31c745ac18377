"""Low rank plus sparse: what many weights share and the few that stand out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank import memo
from lowrank.decomposers import budget
from lowrank.decomposers.checks import (
    check_integer,
    check_number,
    check_one_of,
    check_ratio,
    check_sparsity,
)
from lowrank.decomposers.decomposer import Decomposer, check_rank, working
from lowrank.decomposers.low_rank import truncated
from lowrank.factorizations import Dense, Factorization, Product, Sparse, Sum
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.factorizations.sparse import BlockGrid
from lowrank.norms import Norm


@dataclass(frozen=True)
class LowRankPlusSparse(Decomposer):
    """W ≈ left @ right + S with a fixed rank and a fixed number of non-zeros, by alternation.

    Each half step is a best approximation: left @ right that of W − S for its rank, S that of
    W − left @ right for its number of non-zeros. So the error never grows from one iteration to the
    next, and stays at or below that of the truncated SVD of the same rank. The result is a local
    optimum, mostly better at the same bytes than low rank or pruning alone where a weight has both
    a decaying spectrum and outliers; a weight without such a spectrum is better pruned. It runs as
    two small matrices beside one that is multiplied as dense, so it saves bytes and no time.

    Given are either `rank` and `sparsity`, or `compression_ratio`. A layer that would not be
    smaller stays dense, and the note of its factorization says so.

    Args:
        rank: of left (out, rank) and right (rank, in), 1 ≤ rank ≤ min(out, in).
        sparsity: share of zeros in S, in [0, 1).
        compression_ratio: of this matrix alone in bytes, the index of S included; at least 1.
        rank_ratio: share of those bytes that goes to left and right, in (0, 1); at least rank 1 and
            one non-zero are bought, and what the rank leaves over goes to S.
        iterations: of the alternation, at least 1; each costs one SVD.
        view: as which matrix a convolution's kernel is seen (see `Convolve`). The spatial split of
            3 × 3 kernels is nearer at the same bytes, and reaches higher ratios.

    Source: Zhou & Tao, ICML 2011 (GoDec, algorithm 1); Zhang & Papyan, ICLR 2025 (OATS: the share
    of the budget).
    """

    rank: int | None = None
    sparsity: float | None = None
    compression_ratio: float | None = None
    rank_ratio: float = 0.25
    iterations: int = 20
    view: KernelView = "spatial"

    def __post_init__(self) -> None:
        by_parts = self.rank is not None and self.sparsity is not None
        by_either = self.rank is not None or self.sparsity is not None
        if by_parts == (self.compression_ratio is not None) or by_either != by_parts:
            raise ValueError(
                "LowRankPlusSparse needs either rank and sparsity, or compression_ratio, got "
                f"rank={self.rank}, sparsity={self.sparsity}, "
                f"compression_ratio={self.compression_ratio}"
            )
        if self.sparsity is not None:
            check_sparsity(self.sparsity)
        if self.rank is not None:
            check_integer("rank", self.rank, least=1)
        if self.compression_ratio is not None:
            check_ratio(self.compression_ratio)
        check_number("rank_ratio", self.rank_ratio, "lie in (0, 1)", lambda x: 0 < x < 1)
        check_integer("iterations", self.iterations, least=1)
        check_one_of("view", self.view, KERNEL_VIEWS)

    def kernel_view(self) -> KernelView:
        return self.view

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        rank, count = self.parts_for(weight)
        left, right, kept = _alternate(
            working(weight), rank=rank, count=count, iterations=self.iterations
        )
        left, right = left.to(weight.dtype, copy=True), right.to(weight.dtype, copy=True)
        # S is what the factors as they are stored miss, so it makes up for their rounding too.
        missed = working(weight) - working(left) @ working(right)
        form = Sum(Product(Dense(left), Dense(right)), Sparse.from_dense(missed, kept))
        return budget.dense_unless_smaller(weight, form)

    def parts_for(self, weight: Tensor) -> tuple[int, int]:
        """The rank and the number of non-zeros that a weight of shape (out, in) is given.

        Raises:
            ValueError: `rank` does not fit the shape, or rank 1 and one non-zero already miss
                `compression_ratio`.
        """
        out, inner = weight.shape
        if self.rank is not None and self.sparsity is not None:
            check_rank(self.rank, weight)
            return self.rank, budget.count_of(self.sparsity, weight.numel())
        assert self.compression_ratio is not None
        total, per_rank = weight.nbytes / self.compression_ratio, (out + inner) * weight.itemsize
        rank = max(1, int(self.rank_ratio * total / per_rank))
        count = budget.affordable(BlockGrid((out, inner)), total - rank * per_rank, weight.itemsize)
        if count < 1:
            raise ValueError(
                f"compression_ratio={self.compression_ratio} is out of reach for a weight of shape "
                f"({out}, {inner}): it leaves {int(total)} bytes, and rank {rank} alone takes "
                f"{rank * per_rank}. Lower it, or leave this layer out with `where`."
            )
        return rank, count


@memo.memoised
def _alternate(
    weight: Tensor, *, rank: int, count: int, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """left (out, rank), right (rank, in) and the mask of the sparse part."""
    left, right = truncated(memo.svd(weight), rank)  # S is zero at first.
    for _ in range(iterations - 1):
        residual = weight - left @ right
        sparse = residual * budget.largest(residual, count)
        left, right = truncated(torch.linalg.svd(weight - sparse, full_matrices=False), rank)
    return left, right, budget.largest(weight - left @ right, count)
