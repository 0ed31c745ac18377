"""Sparsity patterns: single weights, N of every M, rows, columns, blocks."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.factorizations import BlockGrid
from lowrank.numerics.checks import check_one_of
from lowrank.numerics.ranking import descending, largest, ranking


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
    def sets(self, size: tuple[int, int]) -> int:
        """The number of sets, row after row, into which blocks (down, across) are divided; scores
        are compared within each set."""

    @abstractmethod
    def keep(self, scores: Tensor, count: int | None, once: bool = False) -> Tensor:
        """The mask of the blocks with the largest scores, equal ones from the first on.

        Args:
            scores: importance of each block, shape `grid(shape).size`.
            count: how many are kept in each set; None for a pattern that is not counted.
            once: whether the scores are used only once; if not, they are sorted, for every count.
        """


@dataclass(frozen=True)
class Blocks(Pattern):
    """Any blocks of one size, the best of the whole matrix or of each row of blocks.

    Args:
        height, width: of a block; None for the whole side of the matrix.
        in_each_row: whether every row of blocks keeps equally many.
    """

    height: int | None = 1
    width: int | None = 1
    in_each_row: bool = False

    def grid(self, shape: tuple[int, int]) -> BlockGrid:
        return BlockGrid(shape, (self.height or shape[0], self.width or shape[1]))

    @property
    def is_counted(self) -> bool:
        return True

    def sets(self, size: tuple[int, int]) -> int:
        return size[0] if self.in_each_row else 1

    def keep(self, scores: Tensor, count: int | None, once: bool = False) -> Tensor:
        assert count is not None
        rows = scores.reshape(self.sets((scores.shape[0], scores.shape[1])), -1)
        if once:
            return largest(rows, count).view(scores.shape)
        kept = torch.zeros_like(rows, dtype=torch.bool)
        return kept.scatter_(1, ranking(rows)[:, :count], True).view(scores.shape)


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

    def sets(self, size: tuple[int, int]) -> int:
        return size[0] * -(-size[1] // self.m)

    def keep(self, scores: Tensor, count: int | None, once: bool = False) -> Tensor:
        rows, columns = scores.shape
        groups = F.pad(scores, (0, -columns % self.m), value=-torch.inf).view(rows, -1, self.m)
        best = descending(groups)
        place = torch.arange(self.m, device=scores.device).expand_as(best)
        limit = torch.full((groups.shape[1], 1), self.n, device=scores.device)
        if columns % self.m:
            limit[-1] = -(-self.n * (columns % self.m) // self.m)
        kept = torch.zeros_like(groups, dtype=torch.bool).scatter(2, best, place < limit)
        return kept.view(rows, -1)[:, :columns]


def parse(pattern: str, within: str = "matrix") -> Pattern:
    """The pattern of ``unstructured``, ``rows``, ``columns``, N:M (``2:4``) or RxC (``16x16``).

    Args:
        pattern: its name.
        within: ``"matrix"`` or ``"row"``: where the blocks of a pattern are compared.

    Raises:
        ValueError: none of these, or a pattern whose blocks cannot compete within a row.
    """
    check_one_of("within", within, ("matrix", "row"))
    named = {"unstructured": Blocks(), "rows": Blocks(width=None), "columns": Blocks(height=None)}
    sizes = re.fullmatch(r"(\d+)([:x])(\d+)", str(pattern))
    found: Pattern | None = named.get(str(pattern))
    if sizes is not None:
        first, second = int(sizes[1]), int(sizes[3])
        if sizes[2] == "x" and first >= 1 and second >= 1:
            found = Blocks(first, second)
        if sizes[2] == ":" and 1 <= first < second:
            found = NOfM(first, second)
    if found is None:
        raise ValueError(
            f"pattern={pattern!r} does not exist: give 'unstructured', 'rows', 'columns', N:M with "
            "1 ≤ N < M such as '2:4', or blocks such as '16x16'"
        )
    if within == "matrix":
        return found
    if not isinstance(found, Blocks) or None in (found.height, found.width):
        raise ValueError(
            f"pattern={pattern!r} already says what competes with what: give within='matrix' with "
            "it, or pattern='unstructured' or blocks such as '1x4' with within='row'"
        )
    return replace(found, in_each_row=True)


def projection(
    pattern: Pattern, shape: tuple[int, int], count: int | None
) -> Callable[[Tensor], Tensor]:
    """A function from a matrix (out, in) to the mask of its largest blocks.

    Args:
        count: how many are kept in each set; None for a pattern that is not counted.
    """
    grid = pattern.grid(shape)
    return lambda matrix: grid.expand(pattern.keep(grid.sum(matrix.square()), count, once=True))


def count_within(scores: Tensor, grid: BlockGrid, value_bytes: int, limit: float) -> int:
    """The number of blocks of each set, the best first, that fit in `limit` bytes with an index.

    Args:
        scores: shape (sets, blocks in each).
        grid: the blocks of the whole matrix.
        value_bytes: of one value.
        limit: in bytes.

    Returns:
        The number for each set; perhaps 0.
    """
    ones = torch.ones(grid.shape, dtype=torch.int64, device=scores.device)
    sizes = grid.sum(ones).view(scores.shape).gather(1, ranking(scores))
    values = sizes.cumsum(1).sum(0) * value_bytes
    low, high = 0, scores.shape[1]
    while low < high:
        middle = (low + high + 1) // 2
        fits = int(values[middle - 1]) + grid.index_bytes(middle * len(scores)) <= limit
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
