"""The law by which the codes of a matrix take the fewest bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowrank.factorizations.entropy_coded import Exponents, Law

# How much of the law is Laplace's and not Gauss', and where between two spreads the first one is.
SHAPES, PHASES = (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5, 0.75)
# The exponent of the least spread: at 2^-5 codes other than 0 hardly occur.
LOWEST = -10
# Bits of an exponent that are tried.
WIDTHS = range(6)


def fit_law(codes: Tensor) -> tuple[Law, Exponents, float]:
    """A law for codes (out, in), float64; how far they spread; and the bits that they then take.

    With an exponent for each row, and one for each column too, where that saves more than it takes;
    its bits are counted. The best of a grid of laws, but the rows' exponents are chosen before
    those of the columns.
    """
    reach = max(1, int(codes.abs().max()))
    sums, squares = codes.abs().sum(dim=1), codes.square().sum(dim=1)
    families = [Family(shape, phase, reach) for shape in SHAPES for phase in PHASES]
    costs = [family.costs(sums, squares, codes.shape[1]) for family in families]
    best = min(range(len(costs)), key=lambda k: float(costs[k].amin(dim=1).sum()))
    row, bits = assign(costs[best])
    family, row = families[best], row + LOWEST
    column, fewer = assign(family.column_costs(codes, row))
    stored = len(row) * int(row.max() - row.min()).bit_length()
    column = column - family.range
    if fewer + stored >= bits:
        column, fewer = torch.zeros_like(column), bits - stored
    law = family.law(int(row.min() + column.min()))
    return law, Exponents(row - row.min(), column - column.min()), fewer + stored


class Family:
    """Laws of one shape for all spreads 2^(exponent/2).

    Args:
        shape, phase, reach: see `SHAPES`, `PHASES` and `Law`.
    """

    def __init__(self, shape: float, phase: float, reach: int) -> None:
        unit = 2 ** (phase / 2)
        # Of a variance of about 1 at exponent 0 whatever the shape.
        self.linear = math.sqrt(2) * shape * unit
        self.square = (1 - shape) / 2 * unit**2
        self.reach = reach
        # More exponents than any code needs on either side of 0.
        self.range = 2 * reach.bit_length() + 4 - LOWEST
        exponents = torch.arange(LOWEST, LOWEST + self.range, dtype=torch.float64)
        self.factors = torch.exp2(-exponents / 2)
        q = torch.arange(-reach, reach + 1, dtype=torch.float64)
        powers = self.linear * q.abs() * self.factors[:, None]
        powers = powers + self.square * q.square() * self.factors.square()[:, None]
        self.normalisers = (-powers).logsumexp(dim=1)

    def costs(self, sums: Tensor, squares: Tensor, count: int) -> Tensor:
        """Bits of groups of codes with each spread, (groups, range).

        Args:
            sums, squares: of the sizes of the codes of each group, (groups,).
            count: codes of a group.
        """
        factors = self.factors.to(sums.device)
        powers = self.linear * torch.outer(sums, factors)
        powers += self.square * torch.outer(squares, factors.square())
        return (powers + count * self.normalisers.to(sums.device)) / math.log(2)

    def column_costs(self, codes: Tensor, row: Tensor) -> Tensor:
        """Bits of each column of codes (out, in), by its exponent from −range to range − 1.

        Args:
            row: exponents of the rows, (out,).
        """
        steps = torch.arange(-self.range, self.range, device=codes.device)
        scale = torch.exp2(-row.double() / 2)
        sums, squares = scale @ codes.abs(), scale.square() @ codes.square()
        place = row[:, None] - LOWEST + steps
        inside = (place >= 0) & (place < self.range)
        normaliser = self.normalisers.to(codes.device)[place.clamp(0, self.range - 1)]
        total = torch.where(inside, normaliser, torch.inf).sum(dim=0)
        factors = torch.exp2(-steps.double() / 2)
        powers = self.linear * torch.outer(sums, factors)
        powers += self.square * torch.outer(squares, factors.square())
        return (powers + total) / math.log(2)

    def law(self, exponent: int) -> Law:
        """The law whose exponent 0 is this one's `exponent`."""
        factor = 2 ** (-exponent / 2)
        return Law(self.linear * factor, self.square * factor**2, self.reach)


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
