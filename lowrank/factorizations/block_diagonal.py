"""Matrices with blocks on their diagonal, all of one shape or each of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from lowrank.factorizations.factorization import (
    MULTIPLY,
    Dense,
    Factorization,
    check_forms,
    rebuild,
)
from lowrank.factorizations.operations import AxisSplit, Operation
from lowrank.files.fields import Fields
from lowrank.numerics.checks import check_integer


class BlockDiagonal(Factorization):
    """Blocks of one shape on the diagonal, zero elsewhere.

    Nothing but the blocks is stored. They run as one batched product, in a convolution as its
    groups; where an operation cannot cut its inputs so, such as a look-up in a table or a kernel in
    the view ``channels_last``, the matrix is multiplied out at every call.

    Args:
        count: the number of blocks, at least 1.
        values: the blocks one below the other, shape (count · height, width).

    Raises:
        ValueError: rows that `count` does not divide, or values that are no factorization.
    """

    def __init__(self, count: int, values: Factorization, notes: tuple[str, ...] = ()) -> None:
        check_forms("the blocks", [values])
        check_integer("count", count, least=1)
        rows, width = values.shape
        if rows % count:
            raise ValueError(
                f"{rows} rows are not those of {count} blocks of one shape one below the other"
            )
        super().__init__((rows, count * width), notes)
        self.count = count
        self.values = values

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        blocks = self._in_blocks(operation)
        if blocks is None:
            return operation.apply(x, self.to_dense(), bias)
        return self.values(x, blocks, bias)

    def to_dense(self) -> Tensor:
        return torch.block_diag(*self.values.to_dense().chunk(self.count))

    def multiplied_out(self, operation: Operation) -> bool:
        blocks = self._in_blocks(operation)
        return blocks is None or self.values.multiplied_out(blocks)

    @property
    def params(self) -> int:
        return self.values.params

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        return BlockDiagonal(self.count, self.values.map_dense(function), notes=self.notes)

    def config(self) -> dict[str, Any]:
        return {"type": "BlockDiagonal", "count": self.count, "values": self.values.config()}

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        return cls(config.integer("count", 1), rebuild(config.fields("values")))

    def describe(self) -> str:
        rows, width = self.values.shape
        values = "" if isinstance(self.values, Dense) else f", values {self.values.describe()}"
        return f"{self.count} blocks {width}→{rows // self.count}{values}"

    def _in_blocks(self, operation: Operation) -> Operation | None:
        rows, width = self.values.shape
        return operation.in_blocks(self.count, (rows // self.count, width))


class DirectSum(Factorization):
    """Factorizations on the diagonal, each of its own shape and form, zero elsewhere.

    Each is applied to its own part of the inputs; where an operation cannot cut its inputs so (see
    `BlockDiagonal`), the matrix is multiplied out at every call.

    Raises:
        ValueError: no block, or something that is none.
    """

    def __init__(self, *blocks: Factorization, notes: tuple[str, ...] = ()) -> None:
        if not blocks:
            raise ValueError("a direct sum needs at least 1 block, got none")
        check_forms("a block", blocks)
        heights, widths = zip(*(block.shape for block in blocks), strict=True)
        super().__init__((sum(heights), sum(widths)), notes)
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        split = self._split(operation)
        if split is None:
            return operation.apply(x, self.to_dense(), bias)
        parts = x.split(split.lengths, split.axis)
        applied = [block(x, operation) for block, x in zip(self.blocks, parts, strict=True)]
        return operation.add_bias(torch.cat(applied, split.axis), bias)

    def to_dense(self) -> Tensor:
        return torch.block_diag(*(block.to_dense() for block in self._blocks))

    def multiplied_out(self, operation: Operation) -> bool:
        parts = (block.multiplied_out(operation) for block in self._blocks)
        return self._split(operation) is None or any(parts)

    @property
    def params(self) -> int:
        return sum(block.params for block in self._blocks)

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        return DirectSum(*(block.map_dense(function) for block in self._blocks), notes=self.notes)

    def config(self) -> dict[str, Any]:
        return {"type": "DirectSum", "blocks": [block.config() for block in self._blocks]}

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        return cls(*map(rebuild, config.each("blocks")))

    def describe(self) -> str:
        sizes = [f"{width}→{height}" for height, width in (block.shape for block in self._blocks)]
        return f"{len(sizes)} blocks {', '.join(sizes)}"

    def _split(self, operation: Operation) -> AxisSplit | None:
        heights, widths = zip(*(block.shape for block in self._blocks), strict=True)
        return operation.split(heights, widths)

    @property
    def _blocks(self) -> list[Factorization]:
        return list(self.blocks)  # type: ignore[arg-type]
