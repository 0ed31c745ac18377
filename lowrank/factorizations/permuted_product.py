"""Two block-diagonal factors with a permutation between them: a grid of low-rank blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from lowrank.factorizations.checks import check_integers, check_range
from lowrank.factorizations.factorization import (
    MULTIPLY,
    Dense,
    Factorization,
    check_forms,
    rebuild,
)
from lowrank.factorizations.operations import AxisSplit, Operation
from lowrank.factorizations.watched import watch
from lowrank.files.fields import Fields
from lowrank.numerics.checks import pair_of


class PermutedProduct(Factorization):
    """W = left P right, applied factor by factor: each block of a grid is of low rank.

    The right factor, block-diagonal over the columns of blocks, gives for each of them the
    coefficients of its blocks from top to bottom; P lists them row by row of blocks; the left
    factor, block-diagonal over these rows, takes for each the coefficients of its blocks from left
    to right. Where an operation cannot permute what lies between (a look-up in a table, a
    convolution of several groups), the product is multiplied out at every call.

    Args:
        left, right: of shapes (out, n) and (n, in).
        grid: how many blocks (down, across).
        ranks: of the blocks, integers of shape `grid`, or of shape (1, 1) where all are equal; n
            together. Stored in 2 bytes each. A row or a column of blocks that are all of rank 0
            cannot be run as convolutions and is multiplied out.

    Raises:
        ValueError: a grid that is none, ranks of another shape or beyond 0..65535, or factors that
            they do not fit.
    """

    ranks: Tensor
    index: Tensor

    def __init__(
        self,
        left: Factorization,
        right: Factorization,
        grid: tuple[int, int],
        ranks: Tensor,
        notes: tuple[str, ...] = (),
    ) -> None:
        check_forms("left and right", [left, right])
        grid = pair_of("grid", grid)
        super().__init__((left.shape[0], right.shape[1]), notes)
        self.grid = grid
        if tuple(ranks.shape) not in (self.grid, (1, 1)):
            raise ValueError(
                f"ranks of shape {tuple(ranks.shape)} must be those of a grid {self.grid}, or "
                "one for all"
            )
        check_integers("ranks", ranks)
        ranks = ranks.to(torch.int64)
        check_range("ranks", ranks, 2**16 - 1)
        inner = int(ranks.expand(self.grid).sum())
        if left.shape[1] != inner or right.shape[0] != inner:
            raise ValueError(
                f"factors of shapes {left.shape} and {right.shape} do not fit ranks of sum {inner}"
            )
        self._hold((left, right), grid, ranks.to(torch.uint16), regrouping(ranks.expand(grid)))

    def _hold(
        self,
        factors: tuple[Factorization, Factorization],
        grid: tuple[int, int],
        ranks: Tensor,
        index: Tensor,
    ) -> None:
        self.left, self.right = factors
        self.grid = grid
        self.register_buffer("ranks", ranks)
        # Follows from the ranks: moved along, but not stored.
        self.register_buffer("index", index, persistent=False)
        self._watched = watch(ranks, index)
        self.register_load_state_dict_post_hook(_derive_index)

    def current_index(self) -> Tensor:
        """The permutation between the factors, made anew if the ranks were written to.

        Raises:
            ValueError: the ranks no longer fit the factors.
        """
        if self._watched.misses([self.ranks, self.index]):
            # Not an inference tensor: it may be used in training later.
            with torch.inference_mode(False):
                _derive_index(self, None)
        return self.index

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        (first, before), (_, between), (last, step) = operation.order([self.left, self, self.right])
        split = self._split(between)
        if split is None:
            return operation.apply(x, self.to_dense(), bias)
        return last(first(x, before).index_select(split.axis, self.current_index()), step, bias)

    def to_dense(self) -> Tensor:
        return self.left.to_dense() @ self.right.to_dense()[self.current_index()]

    def multiplied_out(self, operation: Operation) -> bool:
        (first, before), (_, between), (last, step) = operation.order([self.left, self, self.right])
        parts = first.multiplied_out(before) or last.multiplied_out(step)
        return self._split(between) is None or parts

    @property
    def params(self) -> int:
        return self.left.params + self.right.params

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        left, right = self.left.map_dense(function), self.right.map_dense(function)
        return PermutedProduct(left, right, self.grid, self.ranks, notes=self.notes)

    def config(self) -> dict[str, Any]:
        return {
            "type": "PermutedProduct",
            "grid": list(self.grid),
            "ranks": list(self.ranks.shape),
            "left": self.left.config(),
            "right": self.right.config(),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        down, across = config.integers("grid", 2, least=1)
        shape = config.integers("ranks", 2)
        left, right = rebuild(config.fields("left")), rebuild(config.fields("right"))
        out, inner = left.shape[0], right.shape[1]
        if down > out or across > inner or shape not in ((down, across), (1, 1)):
            allowed = f"that of blocks of {out} x {inner}, one rank for each or one for all"
            config.refuse("grid", (down, across), allowed)
        if left.shape[1] != right.shape[0]:
            raise ValueError(f"factors of shapes {left.shape} and {right.shape} do not fit")
        form = cls.__new__(cls)
        Factorization.__init__(form, (out, inner))
        index = torch.zeros(left.shape[1], dtype=torch.int64)
        form._hold((left, right), (down, across), torch.zeros(shape, dtype=torch.uint16), index)
        return form

    def check_stored(self) -> None:
        down, across = self.grid
        times = down * across if self.ranks.numel() == 1 else 1
        total = times * int(self.ranks.to(torch.int64).sum())
        if total != self.left.shape[1]:
            raise ValueError(f"ranks of sum {total} do not fit factors of {self.left.shape[1]}")

    def describe(self) -> str:
        out, inner = self.shape
        least, most = int(self.ranks.to(torch.int64).min()), int(self.ranks.to(torch.int64).max())
        ranks = f"rank {most}" if least == most else f"ranks {least} to {most}"
        return f"LowRankBlocks {inner}→{out}, {self.grid[0]}x{self.grid[1]} blocks of {ranks}"

    def _split(self, between: Operation) -> AxisSplit | None:
        ones = [1] * len(self.index)
        return between.split(ones, ones)


def regrouping(ranks: Tensor) -> Tensor:
    """Where in the list column by column of blocks each coefficient of the list row by row is.

    Args:
        ranks: how many coefficients each block has, shape (down, across), int64.
    """
    down, across = ranks.shape
    starts = (ranks.T.flatten().cumsum(0) - ranks.T.flatten()).view(across, down).T
    lengths = ranks.flatten()
    block = torch.arange(len(lengths), device=ranks.device).repeat_interleave(lengths)
    place = torch.arange(len(block), device=ranks.device) - (lengths.cumsum(0) - lengths)[block]
    return starts.flatten()[block] + place


def _derive_index(product: PermutedProduct, _: Any) -> None:
    """After other ranks were loaded, the permutation is another one too."""
    product.check_stored()
    product.index = regrouping(product.ranks.to(torch.int64).expand(product.grid))
    product._watched = watch(product.ranks, product.index)
