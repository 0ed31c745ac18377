"""Monarch: two block-diagonal factors with a fixed permutation between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.approximation.comparison import better_than_svd
from lowrank.approximation.low_rank_blocks import BlockedWeight, fit
from lowrank.decomposers.decomposer import Decomposer, Unfit
from lowrank.factorizations import BlockDiagonal, Dense, Factorization, PermutedProduct
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import (
    check_exactly_one,
    check_integer,
    check_one_of,
    check_ratio,
    pair_of,
)
from lowrank.numerics.storage import stored_bytes


@dataclass(frozen=True)
class Monarch(Decomposer):
    """W ≈ block-diagonal × permutation × block-diagonal: a grid of blocks of rank 1 (or `rank`).

    W is cut into a grid (down, across) of blocks. The left factor has a block for each row of the
    grid, the right factor one for each column, and the permutation is fixed, so only these blocks
    are stored: rank · (out · across + in · down) parameters. The projection has a closed form, an
    SVD of each block, which is optimal in the identity and diagonal norms. In the full norm it is
    the start of coordinate descent: each column of blocks exactly, with the others fixed. The rows
    of a block are consecutive in W; in the paper they are every m-th, which is only another order
    of the outputs.

    It runs as two batched products. It pays for butterfly and Fourier-like transforms; trained
    weights are mostly nearer to one SVD of the whole, which is then returned with a note.

    Exactly one of `blocks` and `compression_ratio` is given.

    Args:
        blocks: how many (down, across), divisors of out and in.
        compression_ratio: of this matrix alone, in bytes. Of the finest grids that reach it, the
            one of least error with its blocks fitted alone.
        rank: of each block, at least 1.
        iterations: passes over the columns of blocks in the full norm, at least 0.
        view: as which matrix a convolution's kernel is seen (see `Convolve`).

    Source: Dao et al., Monarch, ICML 2022, section 3 and theorem 1 (the projection).
    """

    family: ClassVar[str] = "hybrid"
    norms: ClassVar = (Identity, Diagonal, Full)
    levels: ClassVar[tuple[str, ...]] = ("compression_ratio",)

    blocks: tuple[int, int] | None = None
    compression_ratio: float | None = None
    rank: int = 1
    iterations: int = 10
    view: KernelView = "channel"

    def __post_init__(self) -> None:
        options = {"blocks": self.blocks, "compression_ratio": self.compression_ratio}
        check_exactly_one("Monarch", options)
        if self.blocks is not None:
            object.__setattr__(self, "blocks", pair_of("blocks", self.blocks))
        if self.compression_ratio is not None:
            check_ratio(self.compression_ratio)
        check_integer("rank", self.rank, least=1)
        check_integer("iterations", self.iterations, least=0)
        check_one_of("view", self.view, KERNEL_VIEWS)

    def kernel_view(self) -> KernelView:
        return self.view

    def check_shape(self, weight: Tensor) -> None:
        self._fitting(weight)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        blocks = self.blocks_for(weight, norm)
        grid = BlockedWeight.of(weight, norm, blocks)
        columns = fit(grid, torch.full(blocks, self.rank), self.iterations)
        rows = [torch.cat([left for left, _ in row], dim=1) for row in zip(*columns, strict=True)]
        rights = torch.cat([right for column in columns for _, right in column])
        left = BlockDiagonal(blocks[0], Dense(torch.cat(rows)))
        right = BlockDiagonal(blocks[1], Dense(rights))
        ranks = torch.full((1, 1), self.rank)
        return better_than_svd(weight, norm, PermutedProduct(left, right, blocks, ranks))

    def blocks_for(self, weight: Tensor, norm: Norm) -> tuple[int, int]:
        """The grid that a weight of shape (out, in) is given.

        Raises:
            Unfit: as `check_shape`.
        """
        fitting = self._fitting(weight)
        finest = [pair for pair in fitting if not any(refines(other, pair) for other in fitting)]
        if len(finest) == 1:
            return finest[0]
        return min(finest, key=lambda pair: self._lost(BlockedWeight.of(weight, norm, pair)))

    def _fitting(self, weight: Tensor) -> list[tuple[int, int]]:
        """The grids that fit the shape of a weight and the ratio.

        Raises:
            Unfit: blocks that are no divisors, or blocks of less than `rank` rows or columns; no
                grid reaches `compression_ratio`.
        """
        out, inner = weight.shape
        allowed = [
            (down, across)
            for down in divisors(out)
            for across in divisors(inner)
            if self.rank <= min(out // down, inner // across)
        ]
        if self.blocks is not None:
            if self.blocks not in allowed:
                raise Unfit(
                    f"blocks={self.blocks} do not fit a weight of shape ({out}, {inner}): "
                    f"{divisors(out)} blocks down and {divisors(inner)} across are possible, and "
                    f"each has at least rank={self.rank} rows and columns"
                )
            return [self.blocks]
        assert self.compression_ratio is not None
        limit = (stored_bytes(weight) / self.compression_ratio - 2) / weight.itemsize
        fitting = [pair for pair in allowed if self.params(weight, pair) <= limit]
        if not fitting:
            reached = stored_bytes(weight) / (self.params(weight, (1, 1)) * weight.itemsize + 2)
            one_block = replace(self, compression_ratio=None, blocks=(1, 1))
            raise Unfit(
                f"compression_ratio={self.compression_ratio} is out of reach for a weight of shape "
                f"({out}, {inner}) of {stored_bytes(weight)} bytes: one block of rank {self.rank} "
                f"gives {reached:.3g}. Lower it, or leave this layer out with `where`.",
                nearest=one_block if allowed else None,
            )
        return fitting

    def params(self, weight: Tensor, blocks: tuple[int, int]) -> int:
        """Numbers in the factors of a weight (out, in)."""
        return self.rank * (weight.shape[0] * blocks[1] + weight.shape[1] * blocks[0])

    def _lost(self, grid: BlockedWeight) -> float:
        """The squared error of the blocks alone."""
        return sum(float(energy[:, self.rank :].sum()) for energy in grid.energies())


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [n for n in range(1, number + 1) if number % n == 0]


def refines(fine: tuple[int, int], coarse: tuple[int, int]) -> bool:
    """Whether one grid cuts the blocks of the other, so that it is at least as near."""
    return fine != coarse and fine[0] % coarse[0] == 0 and fine[1] % coarse[1] == 0
