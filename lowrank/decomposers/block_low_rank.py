"""Block low rank: a grid of blocks, each of its own rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.approximation.comparison import better_than_svd
from lowrank.approximation.low_rank_blocks import BlockedWeight, fit, within
from lowrank.decomposers.decomposer import Decomposer, Unfit, at_reachable
from lowrank.factorizations import Dense, DirectSum, Factorization, PermutedProduct
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import check_integer, check_one_of, check_ratio, pair_of
from lowrank.numerics.storage import stored_bytes


@dataclass(frozen=True)
class BlockLowRank(Decomposer):
    """W cut into a grid of blocks, each of its own rank.

    A singular value of a block costs height + width parameters, one of the whole matrix out + in.
    The ranks minimise the error of the whitened blocks fitted alone, which is optimal where inputs
    of different blocks are uncorrelated. Otherwise the columns of blocks are then fitted in turn in
    the norm of the whole matrix, each exactly with the others fixed.

    It pays where parts of a matrix have a structure of their own: packed projections, the heads of
    an attention, kernels of a smooth operator. Where the order of rows and columns has no meaning,
    as in most networks, one SVD of the whole is as near or nearer; if so, it is returned with a
    note. One block is the truncated SVD.

    Args:
        compression_ratio: of this matrix alone, in bytes; at least 1.
        blocks: how many (down, across).
        iterations: passes over the columns of blocks, at least 0.
        view: as which matrix a convolution's kernel is seen (see `Convolve`).

    Source: Amestoy et al., SIAM J. Sci. Comput. 37(3), 2015 (block low rank); Hackbusch, Computing
    62, 1999 (hierarchical matrices, of which it is the flat one).
    """

    family: ClassVar[str] = "hybrid"
    norms: ClassVar = (Identity, Diagonal, Full)

    compression_ratio: float
    blocks: tuple[int, int] = (2, 2)
    iterations: int = 10
    view: KernelView = "spatial"

    def __post_init__(self) -> None:
        check_ratio(self.compression_ratio)
        object.__setattr__(self, "blocks", pair_of("blocks", self.blocks))
        check_integer("iterations", self.iterations, least=0)
        check_one_of("view", self.view, KERNEL_VIEWS)

    def kernel_view(self) -> KernelView:
        return self.view

    def check_shape(self, weight: Tensor) -> None:
        check_blocks(weight, self.blocks)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        grid = BlockedWeight.of(weight, norm, self.blocks)

        def available(ratio: float) -> float:
            """The numbers that a ratio leaves, beside the ranks, in 2 bytes each."""
            stored = 2 * self.blocks[0] * self.blocks[1]
            return (stored_bytes(weight) / ratio - stored) / weight.itemsize

        ranks = within(grid, available(self.compression_ratio))
        if ranks is None:
            nearest = at_reachable(
                self,
                self.compression_ratio,
                lambda ratio: within(grid, available(ratio)) is not None,
            )
            raise Unfit(
                f"compression_ratio={self.compression_ratio} is out of reach for a weight of shape "
                f"{tuple(weight.shape)} in {self.blocks[0]} x {self.blocks[1]} blocks: it leaves "
                f"{max(0, int(available(self.compression_ratio)))} numbers, less than one singular "
                "value for each row and column of blocks. Lower it, or take fewer blocks.",
                nearest,
            )
        columns = fit(grid, ranks, self.iterations)
        rows = zip(*columns, strict=True)
        left = [Dense(torch.cat([left for left, _ in row], dim=1)) for row in rows]
        right = [Dense(torch.cat([right for _, right in column])) for column in columns]
        form = PermutedProduct(DirectSum(*left), DirectSum(*right), self.blocks, ranks)
        return better_than_svd(weight, norm, form)


def check_blocks(weight: Tensor, blocks: tuple[int, int]) -> None:
    """Raise `Unfit` unless a weight (out, in) can be cut into `blocks` (down, across)."""
    for length, count, what in zip(weight.shape, blocks, ("rows", "columns"), strict=True):
        size = -(-length // count)
        if -(-length // size) != count:
            raise Unfit(
                f"{length} {what} cannot be cut into {count} blocks of {size}, the last "
                f"perhaps smaller: {what} make {-(-length // size)}"
            )
