"""Products of a matrix with vectors, and looking its rows up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.factorizations.operations.operation import AxisSplit, Operation, T
from lowrank.numerics.checks import check_integer


@dataclass(frozen=True)
class Multiply(Operation):
    """y = x Wᵀ for x of shape (…, in): what `nn.Linear` does."""

    def apply(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, matrix, bias)

    def bind(self, matrix: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        return lambda x: F.linear(x, matrix, bias)

    def row_factors(self, x: Tensor, factors: Tensor) -> Tensor:
        return factors

    def order(self, factors: Sequence[T]) -> list[tuple[T, Operation]]:
        return [(factor, self) for factor in reversed(factors)]

    def split(self, heights: Sequence[int], widths: Sequence[int]) -> AxisSplit:
        return AxisSplit(-1, list(widths))

    def in_blocks(self, count: int, shape: tuple[int, int]) -> Operation:
        return MultiplyBlocks(count)

    def by_channel(self, positions: int) -> tuple[Operation, Operation]:
        return MultiplyAlong(positions), self


@dataclass(frozen=True)
class MultiplyBlocks(Operation):
    """y = x Wᵀ, W block-diagonal and given as its blocks one below the other.

    Args:
        count: the number of blocks.
        shared: whether the matrix is one block, that all are.

    Raises:
        ValueError: no block.
    """

    count: int
    shared: bool = False

    def __post_init__(self) -> None:
        check_integer("count", self.count, least=1)

    def apply(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        parts = x.unflatten(-1, (self.count, -1))
        if self.shared:
            return self.add_bias(F.linear(parts, matrix).flatten(-2), bias)
        blocks = matrix.unflatten(0, (self.count, -1))
        y = torch.einsum("...nc,nrc->...nr", parts, blocks)
        return self.add_bias(y.flatten(-2), bias)

    def row_factors(self, x: Tensor, factors: Tensor) -> Tensor:
        return factors.repeat(self.count) if self.shared else factors

    def order(self, factors: Sequence[T]) -> list[tuple[T, Operation]]:
        first, *rest = factors
        shared = replace(self, shared=True)
        return [*((factor, shared) for factor in reversed(rest)), (first, self)]


@dataclass(frozen=True)
class MultiplyAlong(Operation):
    """y = x (W ⊗ 1)ᵀ: each position by itself, for x of shape (…, in · positions).

    Raises:
        ValueError: no position.
    """

    positions: int

    def __post_init__(self) -> None:
        check_integer("positions", self.positions, least=1)

    def apply(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        y = matrix @ x.unflatten(-1, (-1, self.positions))
        return self.add_bias(y.flatten(-2), bias)

    def row_factors(self, x: Tensor, factors: Tensor) -> Tensor:
        return factors.repeat_interleave(self.positions)

    def order(self, factors: Sequence[T]) -> list[tuple[T, Operation]]:
        return [(factor, self) for factor in reversed(factors)]


@dataclass(frozen=True)
class MultiplyTransposed(Operation):
    """y = x W for x of shape (…, out)."""

    def apply(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.add_bias(x @ matrix, bias)

    def order(self, factors: Sequence[T]) -> list[tuple[T, Operation]]:
        return [(factor, self) for factor in factors]


@dataclass(frozen=True)
class Lookup(Operation):
    """y = W[x] for integer x: what `nn.Embedding` does; W has shape (num_embeddings, dim)."""

    takes_indices: ClassVar[bool] = True

    padding_idx: int | None = None

    def apply(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.add_bias(F.embedding(x, matrix, padding_idx=self.padding_idx), bias)

    def row_factors(self, x: Tensor, factors: Tensor) -> Tensor:
        # Looked up like the rows, so that the row for padding gets no gradient either.
        return F.embedding(x, factors[:, None], padding_idx=self.padding_idx)

    def order(self, factors: Sequence[T]) -> list[tuple[T, Operation]]:
        first, *rest = factors
        return [(first, self), *((factor, MultiplyTransposed()) for factor in rest)]
