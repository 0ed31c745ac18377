"""Which weights a pruning method may keep: single ones, N of every M, rows, columns, blocks."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.factorizations import BlockGrid
from lowrank.memo import memoised


class Pattern(ABC):
    """A rule that the positions of the kept weights obey; the method supplies the scores."""

    @abstractmethod
    def grid(self, shape: tuple[int, int]) -> BlockGrid:
        """The blocks of a matrix (out, in) of which each is kept or pruned as a whole."""

    @property
    @abstractmethod
    def is_counted(self) -> bool:
        """Whether the number of survivors is a choice, and not fixed by the pattern."""

    @abstractmethod
    def keep(self, scores: Tensor, count: int | None) -> Tensor:
        """The mask of the blocks with the largest scores, equal ones from the first on.

        Args:
            scores: importance of each block, shape `grid(shape).size`.
            count: how many are kept; None for a pattern that is not counted.
        """


@dataclass(frozen=True)
class Blocks(Pattern):
    """Any blocks of one size, the best of the whole matrix.

    Args:
        height, width: of a block; None for the whole side of the matrix.
    """

    height: int | None = 1
    width: int | None = 1

    def grid(self, shape: tuple[int, int]) -> BlockGrid:
        return BlockGrid(shape, (self.height or shape[0], self.width or shape[1]))

    @property
    def is_counted(self) -> bool:
        return True

    def keep(self, scores: Tensor, count: int | None) -> Tensor:
        assert count is not None
        kept = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
        kept[ranking(scores)[:count]] = True
        return kept.view(scores.shape)


@dataclass(frozen=True)
class NOfM(Pattern):
    """The best N of every M consecutive inputs of a row.

    Where M does not divide the inputs, the last group of `rest` < M keeps ⌈N · rest / M⌉.
    """

    n: int
    m: int

    def grid(self, shape: tuple[int, int]) -> BlockGrid:
        return BlockGrid(shape)

    @property
    def is_counted(self) -> bool:
        return False

    def keep(self, scores: Tensor, count: int | None) -> Tensor:
        rows, columns = scores.shape
        groups = F.pad(scores, (0, -columns % self.m), value=-torch.inf).view(rows, -1, self.m)
        order = groups.argsort(dim=2, descending=True, stable=True)
        place = torch.arange(self.m, device=scores.device).expand_as(order)
        limit = torch.full((groups.shape[1], 1), self.n, device=scores.device)
        if columns % self.m:
            limit[-1] = -(-self.n * (columns % self.m) // self.m)
        kept = torch.zeros_like(groups, dtype=torch.bool).scatter(2, order, place < limit)
        return kept.view(rows, -1)[:, :columns]


def parse(pattern: str) -> Pattern:
    """The pattern of ``unstructured``, ``rows``, ``columns``, N:M (``2:4``) or RxC (``16x16``).

    Raises:
        ValueError: none of these.
    """
    named = {"unstructured": Blocks(), "rows": Blocks(width=None), "columns": Blocks(height=None)}
    if pattern in named:
        return named[pattern]
    sizes = re.fullmatch(r"(\d+)([:x])(\d+)", str(pattern))
    if sizes is not None:
        first, second = int(sizes[1]), int(sizes[3])
        if sizes[2] == "x" and first >= 1 and second >= 1:
            return Blocks(first, second)
        if sizes[2] == ":" and 1 <= first < second:
            return NOfM(first, second)
    raise ValueError(
        f"pattern={pattern!r} does not exist: give 'unstructured', 'rows', 'columns', N:M with "
        "1 ≤ N < M such as '2:4', or blocks such as '16x16'"
    )


@memoised
def ranking(scores: Tensor) -> Tensor:
    """The places of the scores, largest first, equal ones in their order; flat, int64."""
    return scores.flatten().argsort(descending=True, stable=True)


def count_within(scores: Tensor, grid: BlockGrid, value_bytes: int, limit: float) -> int:
    """How many blocks, the best first, fit in `limit` bytes with their index; perhaps none."""
    ones = torch.ones(grid.shape, dtype=torch.int64, device=scores.device)
    values = grid.sum(ones).flatten()[ranking(scores)].cumsum(0) * value_bytes
    low, high = 0, grid.count
    while low < high:
        middle = (low + high + 1) // 2
        fits = int(values[middle - 1]) + grid.index_bytes(middle) <= limit
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
