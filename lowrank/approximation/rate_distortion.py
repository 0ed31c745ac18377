"""Rate-distortion rounding: codes that minimise the error plus a multiple of the bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.factorizations.laws import Exponents, Law, width
from lowrank.norms import Norm
from lowrank.numerics.curvature import compensation, inverse_factor, is_diagonal, without_dead
from lowrank.numerics.elimination import Choose, Settle, eliminate_in_turn, sweep

# The price of a nat: at steps of 1 the squared error is 1/12, and one more nat lowers it by 1/6.
NAT = 1 / 6
# Importances below this share of the largest are raised to it.
LEAST = 2.0**-40


@dataclass(frozen=True)
class Coding:
    """The probability law of codes, and their spread in each row and column."""

    law: Law
    spreads: Exponents

    def penalties(self, importance: Tensor) -> tuple[Tensor, Tensor]:
        """`drawn` and `divided` of `nearest` for codes (in, out).

        Args:
            importance: what a squared error of one step costs, (in, out), about 1.
        """
        inverse = torch.exp2(-self.spreads.total().T.double() / 2)
        price = NAT / importance
        drawn = price * self.law.linear / 2 * inverse
        return drawn, 1 + price * self.law.square * inverse.square()


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

    def round(self, step: float, coding: Coding | None) -> Tensor:
        """Codes (in, out), float64; columns are rounded in turn, and later ones compensate errors.

        Here and in `sweep` codes are those from the centre of the law.

        Args:
            step: between levels, in units of `steps`.
            coding: the law of the codes; None: bits are not counted.
        """
        rest = self.in_steps(step, coding)[self.order]
        drawn, divided = (p[self.order] for p in self._penalties(self.strength, coding))
        codes, chosen = torch.empty_like(rest), torch.empty_like(rest)
        if self.factor is None:
            codes[self.order] = nearest(rest, drawn, divided)
            return codes

        def settler(begin: int, end: int) -> Settle:
            block = slice(begin, end)
            choose = chosen_by(chosen[block], drawn[block], divided[block])

            def settle(place: int, numbers: Tensor, errors: Tensor) -> None:
                torch.sub(numbers, choose(place, numbers), out=errors)

            return settle

        eliminate_in_turn(rest, compensation(self.factor), settler)
        codes[self.order] = chosen
        return codes

    def sweep(self, codes: Tensor, step: float, coding: Coding) -> None:
        """Coordinate descent: choose every column of codes (in, out) once anew, the others fixed.

        As a function of one code, error plus bits is a parabola on either side of 0, which is
        minimised exactly, so that their sum never grows.
        """
        chosen = codes[self.order]
        penalties = self._penalties(self.moment.diagonal(), coding)
        drawn, divided = (p[self.order] for p in penalties)

        def chooser(begin: int, end: int) -> tuple[Tensor, Choose]:
            block = slice(begin, end)
            return chosen[block].clone(), chosen_by(chosen[block], drawn[block], divided[block])

        sweep(self.in_steps(step, coding) - codes, self.moment, self.order, chooser)
        codes[self.order] = chosen

    def in_steps(self, step: float, coding: Coding | None) -> Tensor:
        """The weight in steps from the centre of the law, (in, out), float64."""
        steps = self.weight / step
        return steps - coding.law.centre if coding is not None and coding.law.centre else steps

    def _penalties(self, strength: Tensor, coding: Coding | None) -> tuple[Tensor, Tensor]:
        importance = strength[:, None] * self.rows
        if coding is None:
            return torch.zeros_like(importance), torch.ones_like(importance)
        return coding.penalties(importance)


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
