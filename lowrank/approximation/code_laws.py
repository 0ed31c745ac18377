"""Fit of a probability law to the codes of a matrix, by the fewest bits of an entropy code."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lowrank.factorizations.laws import LARGEST_CODE, Exponents, Law

# The mixture of Laplace's and Gauss' law, and the offset of the first spread between two steps.
SHAPES, PHASES = (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5, 0.75)
# The shape and the unit of each family. At exponent 0 the variance is about 1 for every shape.
FORMS = tuple((shape, 2 ** (phase / 2)) for shape, phase in itertools.product(SHAPES, PHASES))
LINEAR = tuple(math.sqrt(2) * shape * unit for shape, unit in FORMS)
SQUARE = tuple((1 - shape) / 2 * unit**2 for shape, unit in FORMS)
# The exponent of the least spread: at 2^-5 codes other than 0 hardly occur.
LOWEST = -10
# Bits of an exponent that are tried.
WIDTHS = range(6)
# Rounds over rows and columns.
ROUNDS = 3


@dataclass(frozen=True)
class Laws:
    """The probability laws of the codes of k matrices (out, in), on their device.

    Attributes:
        linear, square: of each law, (k,), float64 with the digits of float32.
        row, column: exponents of the spreads, (k, out) and (k, in), int64, the least 0.
        bits: that the codes and the exponents of each matrix take by its law.
        largest: the largest magnitude of the codes of each matrix; not finite if one is NaN.
    """

    linear: Tensor
    square: Tensor
    row: Tensor
    column: Tensor
    bits: list[float]
    largest: list[float]

    def of(self, place: int) -> tuple[Law, Exponents]:
        """The law and the spreads of one of the matrices."""
        reach = reached(self.largest[place])
        law = Law(float(self.linear[place]), float(self.square[place]), reach)
        return law, Exponents(self.row[place], self.column[place])

    def at(self, place: int, ratios: Sequence[float]) -> Laws:
        """The law of one of the matrices for codes that are smaller by some ratios."""
        part = slice(place, place + 1)
        ratio = self.linear.new_tensor(ratios)
        return Laws(
            self.linear[part] * ratio,
            self.square[part] * ratio.square(),
            self.row[part].expand(len(ratios), -1),
            self.column[part].expand(len(ratios), -1),
            self.bits[part] * len(ratios),
            self.largest[part] * len(ratios),
        )


def fit_law(codes: Tensor) -> tuple[Law, Exponents, float]:
    """`fit_laws` of one matrix of codes (out, in): a law, their spread, and their bits."""
    laws = fit_laws(codes.T[:, None])
    return *laws.of(0), laws.bits[0]


def fit_laws(codes: Tensor) -> Laws:
    """A law for each of k matrices of codes; their spread; and the bits that they take by it.

    Rows, and columns too, get exponents of their spread where these save more bits than they take.
    The law is the best of a grid; rows and columns are chosen in turn. It waits for numbers a few
    times, however many codes and matrices there are.

    Args:
        codes: float64, (in, k, out). Of matrices with codes beyond `LARGEST_CODE` only `largest`
            means something.
    """
    codes = codes.transpose(0, 1)
    sizes, squares = codes.abs(), codes.square()
    largest = sizes.amax(dim=(1, 2)).tolist()
    families = Families([reached(size) for size in largest], codes.device)
    # Sums over the columns, of each row, and over the rows, of each column.
    across, down = Sums(sizes.mT, squares.mT), Sums(sizes, squares)
    column = torch.zeros(codes.shape[:2], dtype=torch.int64, device=codes.device)
    family, row, bits = families.best_lines(across, column)
    going = torch.ones_like(family, dtype=torch.bool)
    taken = family, row, column, bits
    for _ in range(ROUNDS):
        _, other, _ = families.best_lines(down, taken[1], taken[0])
        family, row, bits = families.best_lines(across, other)
        bits = bits + other.shape[1] * bit_lengths(other.amax(dim=1) - other.amin(dim=1))
        # Of each matrix until it gains nothing.
        going = going & (bits < taken[3])
        new = family, row, other, bits
        taken = tuple(
            torch.where(going.view(-1, *[1] * (one.ndim - 1)), one, before)
            for one, before in zip(new, taken, strict=True)
        )
        left, *total = torch.cat([going.any()[None].double(), taken[3]]).tolist()
        if not left:
            break
    family, row, column, _ = taken
    lowest = row.amin(dim=1) + column.amin(dim=1)
    factor = torch.exp2(-lowest.double() / 2)
    # In the digits in which a law is stored.
    linear, square = (
        (codes.new_tensor(of)[family] * by).float().double()
        for of, by in ((LINEAR, factor), (SQUARE, factor.square()))
    )
    row, column = (part - part.amin(dim=1, keepdim=True) for part in (row, column))
    return Laws(linear, square, row, column, total, largest)


def reached(largest: float) -> int:
    """The reach of the law of codes up to this size."""
    return max(1, int(largest)) if largest <= LARGEST_CODE else LARGEST_CODE


def bit_lengths(numbers: Tensor) -> Tensor:
    """Bits of integers in 0..255, (k,)."""
    powers = 2 ** torch.arange(8, device=numbers.device)
    return (numbers[:, None] >= powers).sum(dim=1)


class Sums(NamedTuple):
    """Sizes of the codes of k matrices and their squares, (k, lines, n)."""

    sizes: Tensor
    squares: Tensor

    def over(self, exponents: Tensor) -> tuple[Tensor, Tensor]:
        """Their sums along each line, divided by spreads of its places, each (k, lines).

        Args:
            exponents: of the spreads, (k, n).
        """
        scale = torch.exp2(-exponents.double() / 2)[:, :, None]
        return (self.sizes @ scale)[:, :, 0], (self.squares @ scale.square())[:, :, 0]


class Families:
    """Laws of all `FORMS`, each for all spreads 2^(exponent/2), for k matrices of codes.

    Args:
        reach: of the laws of each matrix; see `Law`.
        device: of the codes.
    """

    def __init__(self, reach: Sequence[int], device: torch.device) -> None:
        # More exponents than any code needs on either side of 0.
        self.range = exponents_for(max(reach))
        # (k, families, other exponents, exponents): in nats, infinite where no spread is.
        self.normalisers = torch.stack([all_normalisers(r, self.range, device) for r in reach])
        self.outside = self.normalisers[0, 0].isinf()
        self.normalisers = self.normalisers.masked_fill(self.outside, 0)
        self.factors = torch.exp2(-torch.arange(-self.range, self.range).double() / 2).to(device)
        self.weights = torch.tensor([LINEAR, SQUARE], dtype=torch.float64).to(device)

    def best_lines(
        self, sums: Sums, other: Tensor, family: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The family and the exponents with which lines of codes take the fewest bits.

        Args:
            sums: of the lines.
            other: the exponents of their places, (k, n).
            family: of each matrix, (k,), where it is not to be chosen.

        Returns:
            The family (k,), the exponents (k, lines), and the bits (k,), with those of the
            exponents.
        """
        costs = self.costs(sums.over(other), other, family)
        if family is None:
            family = costs.amin(dim=3).sum(dim=2).argmin(dim=1)
            costs = costs.take_along_dim(family[:, None, None, None], dim=1)
        place, bits = assign(costs[:, 0])
        return family, place - self.range, bits

    def costs(self, sums: tuple[Tensor, Tensor], other: Tensor, family: Tensor | None) -> Tensor:
        """Bits of lines of codes by family and by exponent from −range to range − 1,
        (k, families, lines, 2 · range).

        Args:
            sums: of sizes and of squares, over the spreads of their places in the line.
            other: exponents of these places, (k, n).
            family: of each matrix, (k,); None: all.
        """
        normalisers, weights = self.normalisers, self.weights[:, None].expand(-1, len(other), -1)
        if family is not None:
            normalisers = normalisers.take_along_dim(family[:, None, None, None], dim=1)
            weights = weights.take_along_dim(family[None, :, None], dim=2)
        # How many places have each exponent.
        counts = torch.zeros(len(other), 2 * self.range, dtype=torch.float64, device=other.device)
        counts.scatter_add_(1, other + self.range, torch.ones_like(other, dtype=torch.float64))
        total = (counts[:, None, None] @ normalisers)[:, :, 0]
        impossible = (counts @ self.outside.double()) > 0
        total = total.masked_fill(impossible[:, None], torch.inf)
        linear, square = (weights / math.log(2))[:, :, :, None, None]
        sizes, squares = sums[0][:, :, None] * self.factors, sums[1][:, :, None]
        costs = torch.addcmul((total / math.log(2))[:, :, None], linear, sizes[:, None])
        return costs.addcmul_(square, (squares * self.factors.square())[:, None])


def exponents_for(reach: int) -> int:
    """More exponents than any code up to `reach` needs on either side of 0."""
    return 2 * reach.bit_length() + 4 - LOWEST


# A search fits codes of the same few steps again and again, and most of a fit of codes up to 2^12
# goes into their sums.
@functools.lru_cache(maxsize=16)
def all_normalisers(reach: int, exponents: int, device: torch.device) -> Tensor:
    """The logarithm of the sum of each law for codes −reach..reach.

    Args:
        exponents: on either side of 0.

    Returns:
        (families, 2 · exponents, 2 · exponents), by the exponents of the two sides of a matrix
        from −exponents on; infinite where their sum is below `LOWEST` or too large to be needed.
    """
    factors = torch.exp2(-torch.arange(LOWEST, LOWEST + exponents).double() / 2)[:, None]
    q = torch.arange(reach + 1, dtype=torch.float64)
    sizes, squares = q * factors, (q * factors).square()
    # The law is even: each code but 0 stands for two.
    two = math.log(2) * (q > 0).double()
    found = torch.stack(
        [
            (two - linear * sizes - square * squares).logsumexp(dim=1)
            for linear, square in zip(LINEAR, SQUARE, strict=True)
        ]
    )
    first = torch.arange(-exponents, exponents)
    place = first[:, None] + first - LOWEST
    inside = (place >= 0) & (place < exponents)
    return torch.where(inside, found[:, place.clamp(0, exponents - 1)], torch.inf).to(device)


def assign(costs: Tensor) -> tuple[Tensor, Tensor]:
    """An option for each item, and the bits of all with those of the choices.

    The options that are taken lie in a window of 2^width, and each choice takes `width` bits.

    Args:
        costs: bits of each item with each option, (k, items, options).

    Returns:
        The options (k, items), and the bits (k,).
    """
    _, items, options = costs.shape
    windows, totals, starts, ends = costs, [], [], []
    for bits in (b for b in WIDTHS if 2**b <= options):
        if bits:
            # The least of a window is that of its halves.
            half = 2 ** (bits - 1)
            windows = torch.minimum(windows[:, :, :-half], windows[:, :, half:])
        totals.append(windows.sum(dim=1) + bits * items)
        starts += range(windows.shape[2])
        ends += range(2**bits, 2**bits + windows.shape[2])
    total, place = torch.cat(totals, dim=1).min(dim=1)
    start, end = torch.tensor([starts, ends]).to(costs.device)[:, place]
    option = torch.arange(options, device=costs.device)
    outside = (option < start[:, None]) | (option >= end[:, None])
    return costs.masked_fill(outside[:, None], torch.inf).argmin(dim=2), total
