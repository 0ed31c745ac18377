"""Codes of a matrix on given levels, chosen column by column."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowrank.approximation.quantization_grid import QuantizationGrid
from lowrank.approximation.scale_search import as_divisor
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
        """The levels of columns, (n,), in this order."""
        top = 2**self.bits - 1
        parts = (self.scale, -self.zero, top - self.zero, as_divisor(self.scale))
        if len(self.scale) == 1:
            of_columns = [part.expand(len(columns), -1) for part in parts]
        else:
            group = columns // self.width
            of_columns = [part[group] for part in parts]
        return ColumnLevels(*of_columns, is_shifted=top == 1)

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
            rest: values to be rounded, (n, out); may be changed.
            columns: their indices in the matrix, (n,).
            factor: `compensation` for these columns, (n, n).

        Returns:
            The errors to be compensated by other columns, (n, out).
        """
        one_group = len(self.scale) == 1
        # In units of one scale for each row, values need not be divided by it column by column.
        rest = rest / as_divisor(self.scale) if one_group else rest
        found = torch.empty_like(rest)

        def settler(begin: int, end: int) -> Settle:
            # Of a block at a time: those of all columns are four matrices.
            levels, block = self.levels(columns[begin:end]), found[begin:end]
            missed = levels.missed_units if one_group else levels.missed
            return lambda place, values, errors: missed(values, place, block[place], errors)

        errors = eliminate_in_turn(rest, factor, settler)
        self.codes[columns] = found + self.zero[columns // self.width]
        return errors * self.scale if one_group else errors

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


@dataclass(frozen=True)
class ColumnLevels:
    """The levels `low` to `high`, times a scale, of each entry of some columns, all (n, out).

    Attributes:
        divisor: the scale, infinite where it is 0 and an entry has one level.
        is_shifted: whether levels are counted from `low`, which may be half a level.
    """

    scale: Tensor
    low: Tensor
    high: Tensor
    divisor: Tensor
    is_shifted: bool

    def nearest(self, values: Tensor, column: int, levels: Tensor) -> Tensor:
        """The numbers nearest to one column's values (out,); `levels` becomes their levels."""
        return self._round(values, column, levels) * self.scale[column]

    def missed(self, values: Tensor, column: int, levels: Tensor, errors: Tensor) -> None:
        """Write into `errors` (out,) one column's values less the numbers nearest to them, and the
        levels of these into `levels`."""
        self._round(values, column, levels)
        torch.addcmul(values, levels, self.scale[column], value=-1, out=errors)

    def missed_units(self, values: Tensor, column: int, levels: Tensor, errors: Tensor) -> None:
        """As `missed`, of values in units of the scale."""
        self._round_units(values, column, levels)
        torch.sub(values, levels, out=errors)

    def _round(self, values: Tensor, column: int, levels: Tensor) -> Tensor:
        torch.div(values, self.divisor[column], out=levels)
        return self._round_units(levels, column, levels)

    def _round_units(self, values: Tensor, column: int, levels: Tensor) -> Tensor:
        low, high = self.low[column], self.high[column]
        if self.is_shifted:
            torch.sub(values, low, out=levels).round_().add_(low)
        else:
            torch.round(values, out=levels)
        return torch.clamp(levels, low, high, out=levels)


def kept_nearest(rows: int) -> tuple[str, ...]:
    """The note on rows that compensation would have made worse; none if there are none."""
    if not rows:
        return ()
    return (f"{rows} row{'s' * (rows > 1)} rounded to nearest, which is nearer in the norm",)
