"""A matrix on the levels of its groups, as methods change it that round column by column."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowrank.decomposers.rounding import Grid
from lowrank.factorizations.packing import Layout

# Columns after which all others are updated, by one product of matrices: of 32 rows what is still
# to be rounded stays in the cache.
BLOCK = 32


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
    def nearest(cls, weight: Tensor, grid: Grid, layout: Layout) -> RoundedColumns:
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

    def grid(self, layout: Layout) -> Grid:
        """The levels of the groups of `layout`, from which these were made."""
        rows = layout.count // len(self.scale)
        scale, zero = (values.T[:rows].flatten() for values in (self.scale, self.zero))
        return Grid(self.bits, scale, zero)

    def copy(self) -> RoundedColumns:
        """The same, to be changed."""
        tensors = {name: getattr(self, name).clone() for name in ("codes", "scale", "zero")}
        return replace(self, **tensors)

    def dense(self) -> Tensor:
        """The matrix that it stands for, shape (in, out)."""
        group = torch.arange(len(self.codes), device=self.codes.device) // self.width
        return (self.codes - self.zero[group]) * self.scale[group]

    def levels(self, column: int) -> Grid:
        """Those of each entry of a column."""
        group = column // self.width
        return Grid(self.bits, self.scale[group], self.zero[group])

    def better_rows(
        self, other: RoundedColumns, weight: Tensor, moment: Tensor
    ) -> tuple[RoundedColumns, int]:
        """Each row as it is nearer to that of a weight (out, in), and how many are the other's.

        The squared error of a row e is e · moment · eᵀ, that of the matrix a sum over its rows.
        """
        wins = other._squared_errors(weight, moment) < self._squared_errors(weight, moment)
        pairs = ((getattr(self, n), getattr(other, n)) for n in ("codes", "scale", "zero"))
        codes, scale, zero = (torch.where(wins, theirs, ours) for ours, theirs in pairs)
        return replace(self, codes=codes, scale=scale, zero=zero), int(wins.sum())

    def eliminate(self, rest: Tensor, columns: Tensor, factor: Tensor) -> Tensor:
        """Round some columns in turn, each error being made up for by those that follow.

        Args:
            rest: what is to be rounded, (n, out); changed.
            columns: where it belongs, (n,).
            factor: U of `inverse_factor` for these columns, (n, n).

        Returns:
            What columns beyond these must lose, in units of their rows of U: shape (n, out).
        """
        errors = torch.empty_like(rest)
        for step, column in enumerate(columns.tolist()):
            levels = self.levels(column)
            codes = levels.codes(rest[step, :, None])
            self.codes[column] = codes[:, 0]
            errors[step] = (rest[step] - levels.values(codes)[:, 0]) / factor[step, step]
            rest[step + 1 :] -= torch.outer(factor[step, step + 1 :], errors[step])
        return errors

    def descend(self, weight: Tensor, moment: Tensor, order: Tensor) -> None:
        """Round every column once anew, to where the error of the others wants it.

        The squared error is a parabola of one weight, so that the level nearest to its lowest point
        is the best one, and no step makes the error larger.

        Args:
            moment: with no zero on its diagonal.
            order: of the columns, (in,).
        """
        missing = weight.double().T - self.dense()
        for columns in order.split(BLOCK):
            pull, within = moment[columns] @ missing, moment[columns][:, columns]
            for step, column in enumerate(columns.tolist()):
                levels = self.levels(column)
                before = levels.values(self.codes[column, :, None])
                codes = levels.codes(before + (pull[step] / within[step, step])[:, None])
                change = (levels.values(codes) - before)[:, 0]
                self.codes[column] = codes[:, 0]
                missing[column] -= change
                pull[step + 1 :] -= torch.outer(within[step + 1 :, step], change)

    def _squared_errors(self, weight: Tensor, moment: Tensor) -> Tensor:
        missing = weight.double().T - self.dense()
        return ((moment @ missing) * missing).sum(dim=0)
