"""The common base of pruning methods, which set weights to zero."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from lowrank.approximation.patterns import NOfM, Pattern, count_within, parse
from lowrank.decomposers.decomposer import Decomposer, Unfit, at_reachable
from lowrank.factorizations import BlockGrid, Factorization, Sparse
from lowrank.factorizations.operations import KernelView
from lowrank.norms import Norm
from lowrank.numerics import storage
from lowrank.numerics.checks import check_exactly_one, check_none, check_ratio, check_sparsity


@dataclass(frozen=True)
class Pruning(Decomposer):
    """Pruning by a pattern of blocks; a subclass chooses the kept blocks and their values.

    See `MagnitudePruning` for the arguments.

    Attributes:
        moves_values: whether kept weights change, and so need all the bits of the weight's dtype.
    """

    family: ClassVar[str] = "sparse"
    moves_values: ClassVar[bool] = True

    sparsity: float | None = None
    compression_ratio: float | None = None
    pattern: str = "unstructured"
    within: Literal["matrix", "row"] = "matrix"

    def __post_init__(self) -> None:
        options = {"sparsity": self.sparsity, "compression_ratio": self.compression_ratio}
        check = check_exactly_one if self._pattern.is_counted else check_none
        check(f"{type(self).__name__} with pattern {self.pattern!r}", options)
        if self.sparsity is not None:
            check_sparsity(self.sparsity)
        if self.compression_ratio is not None:
            check_ratio(self.compression_ratio)

    @property
    def level(self) -> float | None:
        """The share of zeros, or the ratio that was asked for."""
        pattern = self._pattern
        return 1 - pattern.n / pattern.m if isinstance(pattern, NOfM) else super().level

    def eased(self, share: float, side: int) -> Decomposer:
        """Of N:M the patterns from (M − 1):M to N:M, N falling along the way.

        Source: Kao et al. 2022 (arXiv 2209.07617), sparse structure decay.
        """
        pattern = self._pattern
        if not isinstance(pattern, NOfM):
            return super().eased(share, side)
        kept = min(round(pattern.m - share * (pattern.m - pattern.n)), pattern.m - 1)
        return replace(self, pattern=f"{kept}:{pattern.m}")

    def kernel_view(self) -> KernelView:
        # N:M is over input channels: that is what kernels for it need, and neighbours within a
        # filter, large in the middle and small at the rim, would make poor groups.
        return "channel" if self._pattern.is_counted else "channels_last"

    def check_shape(self, weight: Tensor) -> None:
        grid = self._pattern.grid((weight.shape[0], weight.shape[1]))
        sets = self._pattern.sets(grid.size)
        if self.sparsity is not None:
            self._count_at(self.sparsity, grid)
        if self.compression_ratio is not None:
            # The bytes of blocks depend on which of them are kept, and are checked later.
            least = sets * self._value_bytes(weight) + grid.index_bytes(sets)
            dense, ratio = storage.stored_bytes(weight), self.compression_ratio
            if least > dense / ratio:
                lower = at_reachable(self, ratio, lambda r: least <= dense / r)
                raise self._out_of_reach(weight, grid, lower)

    def _count(self, weight: Tensor, grid: BlockGrid, scores: Tensor) -> int | None:
        """The number of survivors in each compared set; None where the pattern fixes it."""
        if self.sparsity is not None:
            return self._count_at(self.sparsity, grid)
        if self.compression_ratio is None:
            return None
        competing = scores.reshape(self._pattern.sets(grid.size), -1)
        dense, each = storage.stored_bytes(weight), self._value_bytes(weight)

        def count(ratio: float) -> int:
            return count_within(competing, grid, each, dense / ratio)

        found = count(self.compression_ratio)
        if found == 0:
            lower = at_reachable(self, self.compression_ratio, lambda ratio: count(ratio) > 0)
            raise self._out_of_reach(weight, grid, lower)
        return found

    def _value_bytes(self, weight: Tensor) -> int:
        """The bytes of a kept weight."""
        dtype = weight.dtype if self.moves_values else storage.stored_dtype(weight)
        return dtype.itemsize

    def _count_at(self, sparsity: float, grid: BlockGrid) -> int:
        """The number of blocks that survive in each set.

        Raises:
            Unfit: none.
        """
        blocks = grid.count // self._pattern.sets(grid.size)
        count = blocks - round(sparsity * blocks)
        if count == 0:
            of = "each row of blocks of " if self.within == "row" else ""
            raise Unfit(
                f"sparsity={sparsity} keeps none of the {blocks} blocks of {of}{_described(grid)}. "
                "Lower it, or leave this layer out with `where`.",
                nearest=replace(self, sparsity=1 - 1 / blocks),
            )
        return count

    def _out_of_reach(self, weight: Tensor, grid: BlockGrid, nearest: Decomposer | None) -> Unfit:
        limit = storage.stored_bytes(weight) / (self.compression_ratio or 1)
        return Unfit(
            f"compression_ratio={self.compression_ratio} is out of reach for {_described(grid)}, "
            f"{weight.dtype}: it leaves {limit:.4g} bytes, too few for the best block and its "
            f"index of {grid.index_bytes(1)} bytes. Lower it, or leave this layer out with "
            "`where`.",
            nearest,
        )

    @property
    def _pattern(self) -> Pattern:
        return parse(self.pattern, self.within)


@dataclass(frozen=True)
class ScoredPruning(Pruning):
    """Pruning that keeps the blocks of highest score unchanged; a subclass defines the score."""

    moves_values: ClassVar[bool] = False

    @abstractmethod
    def scores(self, weight: Tensor, grid: BlockGrid, norm: Norm) -> Tensor:
        """The importance of each block, shape `grid.size`; the largest are kept."""

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        grid = self._pattern.grid((weight.shape[0], weight.shape[1]))
        scores = self.scores(weight, grid, norm)
        kept = self._pattern.keep(scores, self._count(weight, grid, scores))
        return Sparse.from_dense(weight, kept, grid.block)


def _described(grid: BlockGrid) -> str:
    height, width = grid.block
    return f"a weight of shape {grid.shape} in blocks of {height}x{width}"
