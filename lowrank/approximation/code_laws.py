"""Fit of a probability law to the codes of a matrix, by the fewest bits of an entropy code."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lowrank.factorizations.laws import Exponents, Law

# The mixture of Laplace's and Gauss' law, and the offset of the first spread between two steps.
SHAPES, PHASES = (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5, 0.75)
# The exponent of the least spread: at 2^-5 codes other than 0 hardly occur.
LOWEST = -10
# Bits of an exponent that are tried.
WIDTHS = range(6)
# Rounds over rows and columns.
ROUNDS = 3


def fit_law(codes: Tensor) -> tuple[Law, Exponents, float]:
    """A law for codes (out, in), float64; their spread; and the bits that they take by this law.

    Rows, and columns too, get exponents of their spread where these save more bits than they take.
    The law is the best of a grid; rows and columns are chosen in turn.
    """
    reach = max(1, int(codes.abs().max()))
    families = all_families(reach)
    column = torch.zeros(codes.shape[1], dtype=torch.int64, device=codes.device)
    family, row, bits = best_lines(families, codes.T, column)
    best = family, row, column, bits
    for _ in range(ROUNDS):
        _, column, bits = best_lines(family, codes, row)
        family, row, more = best_lines(families, codes.T, column)
        total = more + len(column) * int(column.max() - column.min()).bit_length()
        if total >= best[3]:
            break
        best = family, row, column, total
    family, row, column, bits = best
    law = family.law(int(row.min() + column.min()))
    return law, Exponents(row - row.min(), column - column.min()), bits


def best_lines(families: Families, codes: Tensor, other: Tensor) -> tuple[Families, Tensor, float]:
    """The family and the exponents with which the columns of codes (n, lines) take the fewest bits.

    Args:
        other: the exponents of the rows, (n,).

    Returns:
        The family, the exponents (lines,), and the bits, with those of the exponents.
    """
    scale = torch.exp2(-other.double() / 2)
    sums, squares = scale @ codes.abs(), scale.square() @ codes.square()
    costs = families.costs(sums, squares, other.unique(return_counts=True))
    best = int(costs.amin(dim=2).sum(dim=1).argmin())
    place, bits = assign(costs[best])
    return families.only(best), place - families.range, bits


class Families:
    """Laws of some shapes, each for all spreads 2^(exponent/2).

    Args:
        forms: the shape and the phase of each family; see `SHAPES` and `PHASES`.
        reach: see `Law`.
    """

    def __init__(self, forms: Sequence[tuple[float, float]], reach: int) -> None:
        self.reach = reach
        # More exponents than any code needs on either side of 0.
        self.range = 2 * reach.bit_length() + 4 - LOWEST
        # At exponent 0 the variance is about 1 for every shape.
        units = [(shape, 2 ** (phase / 2)) for shape, phase in forms]
        self.linear = [math.sqrt(2) * shape * unit for shape, unit in units]
        self.square = [(1 - shape) / 2 * unit**2 for shape, unit in units]
        factors = torch.exp2(-torch.arange(LOWEST, LOWEST + self.range).double() / 2)[:, None]
        q = torch.arange(reach + 1, dtype=torch.float64)
        sizes, squares = q * factors, (q * factors).square()
        # The law is even: each code but 0 stands for two.
        two = math.log(2) * (q > 0).double()
        self.normalisers = torch.stack(
            [
                (two - linear * sizes - square * squares).logsumexp(dim=1)
                for linear, square in zip(self.linear, self.square, strict=True)
            ]
        )

    def costs(self, sums: Tensor, squares: Tensor, others: tuple[Tensor, Tensor]) -> Tensor:
        """Bits of lines of codes by family and by exponent from −range to range − 1,
        (families, lines, 2 · range).

        Args:
            sums, squares: of the sizes of the codes of each line, over the spreads that they have
                from their places in the line, (lines,).
            others: exponents of these places, (n,), and how many have each.
        """
        steps = torch.arange(-self.range, self.range, device=sums.device)
        place = others[0][:, None] - LOWEST + steps
        inside = (place >= 0) & (place < self.range)
        normalisers = self.normalisers.to(sums.device)[:, place.clamp(0, self.range - 1)]
        total = torch.where(inside, normalisers, torch.inf)
        factors = torch.exp2(-steps.double() / 2)
        linear, square = (
            sums.new_tensor(each)[:, None, None] for each in (self.linear, self.square)
        )
        powers = linear * torch.outer(sums, factors)
        powers += square * torch.outer(squares, factors.square())
        powers += (others[1].double() @ total)[:, None]
        return powers.div_(math.log(2))

    def only(self, place: int) -> Families:
        """One of the families."""
        one = copy.copy(self)
        part = slice(place, place + 1)
        one.linear, one.square = self.linear[part], self.square[part]
        one.normalisers = self.normalisers[part]
        return one

    def law(self, exponent: int) -> Law:
        """The law whose exponent 0 is the `exponent` of the first family."""
        factor = 2 ** (-exponent / 2)
        return Law(self.linear[0] * factor, self.square[0] * factor**2, self.reach)


# A search fits codes of the same few steps again and again, and most of a fit of codes up to 2^12
# goes into their sums.
@functools.lru_cache(maxsize=8)
def all_families(reach: int) -> Families:
    """The families of the grid for codes −reach..reach."""
    return Families(tuple(itertools.product(SHAPES, PHASES)), reach)


def assign(costs: Tensor) -> tuple[Tensor, float]:
    """An option for each item, and the bits of all with those of the choices.

    The options that are taken lie in a window of 2^width, and each choice takes `width` bits.

    Args:
        costs: bits of each item with each option, (items, options).
    """
    found = []
    for bits in (b for b in WIDTHS if 2**b <= costs.shape[1]):
        totals = costs.unfold(1, 2**bits, 1).amin(dim=2).sum(dim=0)
        start = int(totals.argmin())
        found.append((float(totals[start]) + bits * len(costs), start, 2**bits))
    total, start, options = min(found)
    return costs[:, start : start + options].argmin(dim=1) + start, total
