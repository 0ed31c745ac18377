"""Low rank plus sparse: a low-rank part for the bulk of the weights, a sparse part for outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lowrank.approximation.comparison import better_than_svd
from lowrank.approximation.joint_parts import joint_parts
from lowrank.approximation.low_rank import Factors, nearest
from lowrank.approximation.sparse_part import SparseMatrix, SparsePart
from lowrank.decomposers.decomposer import Decomposer, Unfit, at_reachable, check_rank, count_of
from lowrank.factorizations import Dense, Factorization, Product, Sparse, Sum
from lowrank.factorizations.block_grid import BlockGrid
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import (
    check_integer,
    check_number,
    check_one_of,
    check_ratio,
    check_sparsity,
)
from lowrank.numerics.curvature import is_diagonal
from lowrank.numerics.memo import MEMO
from lowrank.numerics.storage import stored_bytes


@dataclass(frozen=True)
class LowRankPlusSparse(Decomposer):
    """W ≈ left @ right + S with a fixed rank and a fixed number of non-zeros, by alternation.

    Each half step never makes the error in the norm larger: left @ right is the best approximation
    of W − S for its rank, and S comes as near to W − left @ right as its number of non-zeros
    allows: the nearest in the identity and diagonal norms, the best values for its mask in the full
    norm. There the alternating direction method of multipliers finds both parts together before, as
    `ALPS` finds a mask, and the mask stays. So the result, a local optimum, stays at or below the
    truncated SVD of the same rank.

    It pays against either part alone where a weight has both a decaying spectrum and outliers. In
    the full norm of stories260K at 4 to 9 bits for each weight, values of 16 bits, the error of
    queries and keys is 0.6 to 0.9 times that of `ALPS`; of all other weights 0.95 to 1.1 times at 4
    and 6 bits, and 0.8 to 1 times at 9. Where the truncated SVD of the same bytes is nearer, that
    is returned with a note. It runs as two small matrices beside one that is multiplied as dense,
    so it saves bytes and no time.

    Given are either `rank` and `sparsity`, or `compression_ratio`. A layer that would not be
    smaller stays dense, and the note of its factorization says so.

    Args:
        rank: of left (out, rank) and right (rank, in), 1 ≤ rank ≤ min(out, in).
        sparsity: share of zeros in S, in [0, 1).
        compression_ratio: of this matrix alone in bytes, the index of S included; at least 1.
        rank_ratio: share of those bytes that goes to left and right, in (0, 1); at least rank 1 and
            one non-zero are bought, and what the rank leaves over goes to S.
        iterations: of the alternation, at least 1; each costs one SVD, and in the full norm the
            values of an `ALPS`. There it ends where one takes less than 1 % off the error.
        view: as which matrix a convolution's kernel is seen (see `Convolve`). The spatial split of
            3 × 3 kernels is nearer at the same bytes, and reaches higher ratios.

    Source: Zhou & Tao, ICML 2011 (GoDec, algorithm 1); Zhang & Papyan, ICLR 2025 (OATS: the share
    of the budget, the diagonal norm); Makni, Meng & Mazumder, HASSLE-free, 2025 (the full norm).
    """

    family: ClassVar[str] = "hybrid"
    norms: ClassVar[tuple[type[Norm], ...]] = (Identity, Diagonal, Full)

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

    def check_shape(self, weight: Tensor) -> None:
        self.parts_for(weight)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        rank, count = self.parts_for(weight)
        if is_diagonal(norm.second_moment(weight)):
            factors, sparse = self._alternate(weight, rank, SparsePart(norm, count))
        else:
            # In float32, other strides round otherwise.
            weight = weight.contiguous()
            start = nearest(weight.double(), rank, norm)
            with MEMO.passing():
                factors, sparse = joint_parts(weight, norm, start, count, self.iterations)
        values = Sparse.from_dense(sparse.values.to(weight.dtype), sparse.kept)
        form = Sum(Product(Dense(factors.left), Dense(factors.right)), values, notes=factors.notes)
        return better_than_svd(weight, norm, form)

    def _alternate(
        self, weight: Tensor, rank: int, part: SparsePart
    ) -> tuple[Factors, SparseMatrix]:
        """The factors as they are stored, and the best sparse matrix beside them."""
        target = weight.double()
        factors = nearest(target, rank, part.norm)
        with MEMO.passing():
            for _ in range(self.iterations - 1):
                sparse = part.nearest(target - factors.left @ factors.right)
                factors = nearest(target - sparse.values, rank, part.norm)
        left, right = factors.left.to(weight.dtype), factors.right.to(weight.dtype)
        # S approximates the residual of the stored factors, so it compensates their rounding too.
        sparse = part.nearest(target - left.double() @ right.double())
        return Factors(left, right, factors.notes), sparse

    def parts_for(self, weight: Tensor) -> tuple[int, int]:
        """The rank and the number of non-zeros that a weight of shape (out, in) is given.

        Raises:
            Unfit: `rank` does not fit the shape, or rank 1 and one non-zero already miss
                `compression_ratio`.
        """
        out, inner = weight.shape
        if self.rank is not None and self.sparsity is not None:
            check_rank(self.rank, weight)
            return self.rank, count_of(self.sparsity, weight.numel())
        assert self.compression_ratio is not None
        rank, count = self._parts_at(self.compression_ratio, weight)
        if count < 1:
            reached = at_reachable(
                self, self.compression_ratio, lambda r: self._parts_at(r, weight)[1] > 0
            )
            dense = stored_bytes(weight)
            raise Unfit(
                f"compression_ratio={self.compression_ratio} is out of reach for a weight of shape "
                f"({out}, {inner}): it leaves {int(dense / self.compression_ratio)} bytes, "
                f"and rank {rank} alone takes {rank * (out + inner) * weight.itemsize}. Lower it, "
                "or leave this layer out with `where`.",
                reached,
            )
        return rank, count

    def _parts_at(self, ratio: float, weight: Tensor) -> tuple[int, int]:
        """The rank, at least 1, and how many non-zeros the bytes that it leaves hold."""
        total, per_rank = stored_bytes(weight) / ratio, sum(weight.shape) * weight.itemsize
        rank = max(1, int(self.rank_ratio * total / per_rank))
        grid = BlockGrid((weight.shape[0], weight.shape[1]))
        return rank, grid.affordable(total - rank * per_rank, weight.itemsize)
