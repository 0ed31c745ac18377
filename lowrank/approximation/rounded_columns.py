"""Codes of a matrix on given levels, chosen column by column."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowrank.approximation.quantization_grid import QuantizationGrid
from lowrank.factorizations.packing import Layout
from lowrank.numerics.elimination import Choose, Settle, eliminate_in_turn, sweep


@dataclass(frozen=True)
class RoundedColumns:
    """W[i, j] ≈ (codes[j, i] − zero[g, i]) · scale[g, i] with g = j // width, all float64.

    Transposed, so that a column lies in one piece. The methods that round change it in place.

    Attributes:
        bits: of a code.
        width: consecutive columns that share levels.
        codes: shape (in, out).
        scale, zero: shape (groups of a row, out).
    """

    bits: int
    width: int
    codes: Tensor
    scale: Tensor
    zero: Tensor

    @classmethod
    def nearest(cls, weight: Tensor, grid: QuantizationGrid, layout: Layout) -> RoundedColumns:
        """A weight (out, in) rounded to the nearest levels."""
        codes = layout.join(grid.codes(layout.split(weight.double()))).T.contiguous()
        rows = weight.shape[0]
        # One group for the whole matrix is the same for each row.
        per_row = max(1, layout.count // rows)
        scale, zero = (
            values.view(-1, per_row).expand(rows, per_row).T.contiguous()
            for values in (grid.scale, grid.zero)
        )
        return cls(layout.bits, layout.width, codes, scale, zero)

    def grid(self, layout: Layout) -> QuantizationGrid:
        """The levels of the groups of `layout`, from which these were made."""
        rows = layout.count // len(self.scale)
        scale, zero = (values.T[:rows].flatten() for values in (self.scale, self.zero))
        return QuantizationGrid(self.bits, scale, zero)

    def copy(self) -> RoundedColumns:
        """The same, to be changed."""
        tensors = {name: getattr(self, name).clone() for name in ("codes", "scale", "zero")}
        return replace(self, **tensors)

    def zeros(self) -> RoundedColumns:
        """Every entry at the level that is 0, for levels of which one is."""
        return replace(self, codes=self.zero[self._group()])

    def dense(self) -> Tensor:
        """The matrix that it stands for, shape (in, out)."""
        group = self._group()
        return (self.codes - self.zero[group]) * self.scale[group]

    def _group(self) -> Tensor:
        """The group of each column, (in,)."""
        return torch.arange(len(self.codes), device=self.codes.device) // self.width

    def levels(self, columns: Tensor) -> ColumnLevels:
        """The levels of some columns, (n,)."""
        group = columns // self.width
        return ColumnLevels(2**self.bits - 1, self.scale[group], self.zero[group])

    def better_rows(
        self, other: RoundedColumns, weight: Tensor, moment: Tensor
    ) -> tuple[RoundedColumns, int]:
        """The rows of either that are nearer to a weight (out, in), and how many are the other's.

        The squared error of a row e is e · moment · eᵀ, that of the matrix a sum over its rows.
        """
        wins = other._squared_errors(weight, moment) < self._squared_errors(weight, moment)
        pairs = ((getattr(self, n), getattr(other, n)) for n in ("codes", "scale", "zero"))
        codes, scale, zero = (torch.where(wins, theirs, ours) for ours, theirs in pairs)
        return replace(self, codes=codes, scale=scale, zero=zero), int(wins.sum())

    def eliminate(self, rest: Tensor, columns: Tensor, factor: Tensor) -> Tensor:
        """Round some columns in turn; the columns that follow compensate each error.

        Args:
            rest: values to be rounded, (n, out); changed.
            columns: their indices in the matrix, (n,).
            factor: `compensation` for these columns, (n, n).

        Returns:
            The errors to be compensated by other columns, (n, out).
        """
        found = torch.empty_like(rest)

        def settler(begin: int, end: int) -> Settle:
            levels, block = self.levels(columns[begin:end]), found[begin:end]
            return lambda place, values, errors: levels.missed(values, place, block[place], errors)

        errors = eliminate_in_turn(rest, factor, settler)
        self.codes[columns] = found + self.zero[columns // self.width]
        return errors

    def descend(self, weight: Tensor, moment: Tensor, order: Tensor) -> None:
        """Coordinate descent: round every column once anew, with the other columns fixed.

        Args:
            moment: with no zero on its diagonal.
            order: of the columns, (in,).
        """
        zero = self.zero[order // self.width]
        found = self.codes[order] - zero

        def chooser(begin: int, end: int) -> tuple[Tensor, Choose]:
            levels, block = self.levels(order[begin:end]), found[begin:end]
            before = block * levels.scale
            return before, lambda place, wanted: levels.nearest(wanted, place, block[place])

        sweep(weight.double().T - self.dense(), moment, order, chooser)
        self.codes[order] = found + zero

    def _squared_errors(self, weight: Tensor, moment: Tensor) -> Tensor:
        missing = weight.double().T - self.dense()
        return ((moment @ missing) * missing).sum(dim=0)


class ColumnLevels:
    """The levels −zero..`top` − zero, times a scale, of each entry of some columns, (n, out)."""

    def __init__(self, top: int, scale: Tensor, zero: Tensor) -> None:
        self.scale = scale
        self._low, self._high = -zero, top - zero
        # A group of scale 0 has one level.
        self._divisor = scale.where(scale != 0, torch.inf)
        # With two levels the zero point may be half a code.
        self._shift = zero if top == 1 else None

    def nearest(self, values: Tensor, column: int, levels: Tensor) -> Tensor:
        """The numbers nearest to one column's values (out,); `levels` becomes their levels."""
        return self._round(values, column, levels) * self.scale[column]

    def missed(self, values: Tensor, column: int, levels: Tensor, errors: Tensor) -> None:
        """Write into `errors` (out,) one column's values less the numbers nearest to them, and the
        levels of these into `levels`."""
        self._round(values, column, levels)
        torch.addcmul(values, levels, self.scale[column], value=-1, out=errors)

    def _round(self, values: Tensor, column: int, levels: Tensor) -> Tensor:
        torch.div(values, self._divisor[column], out=levels)
        if self._shift is None:
            levels.round_()
        else:
            levels.add_(self._shift[column]).round_().sub_(self._shift[column])
        return torch.clamp(levels, self._low[column], self._high[column], out=levels)


def kept_nearest(rows: int) -> tuple[str, ...]:
    """The note on rows that compensation would have made worse; none if there are none."""
    if not rows:
        return ()
    return (f"{rows} row{'s' * (rows > 1)} rounded to nearest, which is nearer in the norm",)
