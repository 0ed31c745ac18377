"""Rate-distortion rounding: codes that minimise the error plus a multiple of the bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lowrank.approximation.code_laws import Laws
from lowrank.factorizations.laws import Exponents, width
from lowrank.norms import Norm
from lowrank.numerics.curvature import compensation, inverse_factor, is_diagonal, without_dead
from lowrank.numerics.elimination import Choose, Settle, eliminate_in_turn, sweep

# The price of a nat: at steps of 1 the squared error is 1/12, and one more nat lowers it by 1/6.
NAT = 1 / 6
# Importances below this share of the largest are raised to it.
LEAST = 2.0**-40


@dataclass(frozen=True)
class Coding:
    """The probability laws of the codes of k matrices, and their spread in each row and column.

    Args:
        laws: of the k matrices.
        centre: of each law, (k,), float64.
    """

    laws: Laws
    centre: Tensor

    def penalties(self, strength: Tensor, rows: Tensor) -> Penalties:
        """The penalties where a squared error of one step costs strength[j] · rows[r], about 1.

        Args:
            strength: of the columns, (n,).
            rows: (out,).
        """
        laws, strength = self.laws, strength[:, None]
        row, column = (torch.exp2(-part.double() / 2) for part in (laws.row, laws.column.T))
        drawn = NAT / 2 * laws.linear * column / strength, row / rows
        more = NAT * laws.square * column.square() / strength, row.square() / rows
        return Penalties(drawn, more)


class Penalties(NamedTuple):
    """`drawn`, and `divided` less 1, of `nearest`, as products of a number of each column (n, k)
    and one of each row (k, out)."""

    drawn: tuple[Tensor, Tensor]
    divided: tuple[Tensor, Tensor]

    def of(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """`drawn` and `divided` of some columns, (n, k · out)."""
        drawn, more = ((column[columns][:, :, None] * row).flatten(1) for column, row in self)
        return drawn, more.add_(1)


def nearest(numbers: Tensor, drawn: Tensor, divided: Tensor) -> Tensor:
    """The integers q that make (x − q)² + 2 · drawn · |q| + (divided − 1) · q² least.

    A parabola on either side of 0, so that the best integer is one next to its lowest point.
    """
    return (numbers - torch.clamp(numbers, -drawn, drawn)).div_(divided).round_()


def chosen_by(codes: Tensor, drawn: Tensor, divided: Tensor) -> Choose:
    """A function that writes the `nearest` codes of a column to its place in codes (n, out)."""

    low = -drawn

    def choose(place: int, numbers: Tensor) -> Tensor:
        chosen = torch.clamp(numbers, low[place], drawn[place], out=codes[place])
        return torch.sub(numbers, chosen, out=chosen).div_(divided[place]).round_()

    return choose


class Matrix:
    """A weight as it is coded, transposed, with a step for each row and column.

    Where errors in some rows or columns cost more than in others, the error is least for the same
    bits if the steps are scaled so that the error of one step costs the same everywhere. This is
    done where it saves more bits than the exponents of the steps take.

    Args:
        weight: shape (out, in).
        norm: in which its error counts.

    Attributes:
        steps: the factors of its steps.
        weight: divided by them, (in, out), float64.
        share: what had to be added to the second moment, see `inverse_factor`.
    """

    def __init__(self, weight: Tensor, norm: Norm) -> None:
        moment = without_dead(norm.second_moment(weight))
        self.share = 0.0
        self.order = moment.diagonal().argsort(descending=True, stable=True)
        factor, strength = None, moment.diagonal().clone()
        if not is_diagonal(moment):
            factor, self.share = inverse_factor(moment[self.order][:, self.order])
            # The cost of an error after compensation by the columns that follow.
            strength[self.order] = factor.diagonal().pow(-2)
        rows = norm.row_weights(weight).expand(len(weight))
        rows = rows.clamp_min(LEAST * rows.max())
        strength = strength.clamp_min(LEAST * strength.max())
        self.steps = Exponents(useful(rows, len(strength)), useful(strength, len(rows)))
        row, column = (torch.exp2(e.double() / 2) for e in (self.steps.row, self.steps.column))
        self.weight = (weight.double() / row[:, None] / column).T.contiguous()
        # In units in which the error of a typical step costs 1.
        unit = typical(strength * column.square())
        self.rows = rows * row.square() / typical(rows * row.square())
        self.strength = strength * column.square() / unit
        self.moment = moment * torch.outer(column, column) / unit
        self.factor = None if factor is None else factor / column[self.order]

    def round(self, steps: Sequence[float], coding: Coding | None) -> Tensor:
        """Codes (in, k, out), float64, of the weight in k steps; columns are rounded in turn, and
        later ones compensate errors. Rows are independent, and so all k take one pass.

        Here and in `sweep` codes are those from the centre of the law.

        Args:
            steps: between levels, k of them, in units of `steps`.
            coding: the laws of the codes; None: bits are not counted.
        """
        rest = self.in_steps(steps, coding)[self.order].flatten(1)
        penalties = self._penalties(self.strength, len(steps), coding)
        codes, chosen = torch.empty_like(rest), torch.empty_like(rest)
        if self.factor is None:
            codes[self.order] = nearest(rest, *penalties.of(self.order))
            return codes.view(len(rest), len(steps), -1)

        def settler(begin: int, end: int) -> Settle:
            columns = penalties.of(self.order[begin:end])
            choose = chosen_by(chosen[begin:end], *columns)

            def settle(place: int, numbers: Tensor, errors: Tensor) -> None:
                torch.sub(numbers, choose(place, numbers), out=errors)

            return settle

        eliminate_in_turn(rest, compensation(self.factor), settler)
        codes[self.order] = chosen
        return codes.view(len(rest), len(steps), -1)

    def sweep(self, codes: Tensor, steps: Sequence[float], coding: Coding) -> None:
        """Coordinate descent: choose every column of codes (in, k, out) once anew, the others
        fixed.

        As a function of one code, error plus bits is a parabola on either side of 0, which is
        minimised exactly, so that their sum never grows.
        """
        chosen = codes[self.order].flatten(1)
        penalties = self._penalties(self.moment.diagonal(), len(steps), coding)

        def chooser(begin: int, end: int) -> tuple[Tensor, Choose]:
            block, columns = chosen[begin:end], penalties.of(self.order[begin:end])
            return block.clone(), chosen_by(block, *columns)

        missing = (self.in_steps(steps, coding) - codes).flatten(1)
        sweep(missing, self.moment, self.order, chooser)
        codes[self.order] = chosen.view(codes.shape)

    def in_steps(self, steps: Sequence[float], coding: Coding | None) -> Tensor:
        """The weight in steps from the centre of the law, (in, k, out), float64."""
        numbers = self.weight[:, None] / self.weight.new_tensor(steps)[:, None]
        return numbers if coding is None else numbers.sub_(coding.centre[:, None])

    def _penalties(self, strength: Tensor, count: int, coding: Coding | None) -> Penalties:
        """Those of columns of some strength, in `count` steps."""
        if coding is not None:
            return coding.penalties(strength, self.rows)
        none = strength.new_zeros(len(strength), count), self.rows.new_zeros(count, len(self.rows))
        return Penalties(none, none)


def useful(importance: Tensor, length: int) -> Tensor:
    """Exponents of the steps of lines, (lines,), int64, at least 0; all 0 where they do not pay.

    Args:
        importance: what the squared error of each line counts, (lines,), above 0.
        length: of a line.
    """
    wanted = -importance.log2().round()
    wanted -= wanted.min()
    before = importance.mean().log2()
    after = (importance * torch.exp2(wanted)).mean().log2() - wanted.mean()
    saved = len(importance) * length * float(before - after) / 2
    pays = saved > len(importance) * width(wanted)
    return (wanted if pays else torch.zeros_like(wanted)).long()


def typical(values: Tensor) -> Tensor:
    """The geometric mean."""
    return values.log().mean().exp()
