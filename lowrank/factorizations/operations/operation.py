"""The interface of operations of a matrix on data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import Tensor

T = TypeVar("T")


class Operation(ABC):
    """A way to apply a matrix of shape (out, in) to data.

    Attributes:
        takes_indices: whether the data are numbers of rows in place of vectors.
    """

    takes_indices: ClassVar[bool] = False

    @abstractmethod
    def apply(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply one dense matrix, and add a bias of shape (out,) if there is one."""

    def bind(self, matrix: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """`apply` for one matrix and bias, with what depends on them alone done beforehand."""
        return lambda x: self.apply(x, matrix, bias)

    def add_bias(self, y: Tensor, bias: Tensor | None) -> Tensor:
        """Outputs of `apply`, with a bias added."""
        return y if bias is None else y + bias

    def row_factors(self, x: Tensor, factors: Tensor) -> Tensor | None:
        """By what the outputs for `x` are multiplied if each row of the matrix is by a factor.

        None where the outputs of a row are not apart from those of others.

        Args:
            factors: shape (out,).
        """
        del x, factors
        return None

    @abstractmethod
    def order(self, factors: Sequence[T]) -> list[tuple[T, Operation]]:
        """The factors of a product `factors[0] @ factors[1] @ …`, first to act first.

        Law: applying them one after the other equals applying the product at once.
        """

    def split(self, heights: Sequence[int], widths: Sequence[int]) -> AxisSplit | None:
        """The split of inputs and outputs that applies diagonal blocks of a matrix one by one.

        None, here and in the next two methods, where that is impossible; the matrix is then
        multiplied out.

        Args:
            heights, widths: of the blocks, in their order.
        """
        del heights, widths
        return None

    def in_blocks(self, count: int, shape: tuple[int, int]) -> Operation | None:
        """The operation of a block-diagonal matrix, given as its blocks one below the other.

        Args:
            count: the number of blocks.
            shape: (height, width) of each.
        """
        del count, shape
        return None

    def by_channel(self, positions: int) -> tuple[Operation, Operation] | None:
        """The operations of T and C for a matrix C (T ⊗ 1) with columns (channel, position)."""
        del positions
        return None


@dataclass(frozen=True)
class AxisSplit:
    """Inputs are cut into parts of these lengths along an axis, and outputs joined along it."""

    axis: int
    lengths: list[int]
