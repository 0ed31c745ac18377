"""Probability laws of the codes of a matrix, from which its entropy code is made."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext

import torch
from torch import Tensor

from lowrank.factorizations import ans

# Decimal digits of the computation of probabilities: correctly rounded, the same on every machine.
EXACT = Context(prec=20)
# The frequencies of many more codes would not fit in 16 bits.
LARGEST_CODE = 2**12
LARGEST_EXPONENT = 255


@dataclass(frozen=True)
class Law:
    """The probability law p(centre + q) ∝ exp(−linear · |q|/s − square · q²/s²), s the spread.

    Args:
        linear, square: at least 0; Laplace's law has no square, Gauss' no linear part. Rounded to
            float32, in which they are stored.
        reach: the largest |q|, 0..4096.
        centre: the most frequent code; not 0 only where nearly all weights have one sign.

    Raises:
        ValueError: a number out of its range.
    """

    linear: float
    square: float
    reach: int
    centre: int = 0

    def __post_init__(self) -> None:
        for name in ("linear", "square"):
            value = ctypes.c_float(getattr(self, name)).value
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value} of a law of codes must be at least 0 and finite")
            object.__setattr__(self, name, value)
        if not 0 <= self.reach <= LARGEST_CODE:
            raise ValueError(f"reach={self.reach} of a law of codes must lie in 0..{LARGEST_CODE}")

    def frequencies(self, exponents: range) -> Tensor:
        """Those of −reach..reach for spreads 2^(exponent/2), (exponents, 2 · reach + 1), int64.

        Integers of at least 1 that sum to 2^16, the same on every machine.
        """
        found = torch.ones(len(exponents), 2 * self.reach + 1, dtype=torch.int64)
        for row, exponent in zip(found, exponents, strict=True):
            half = torch.tensor(self._half(exponent))
            row[self.reach : self.reach + len(half)] = half
            row[self.reach + 1 - len(half) : self.reach + 1] = half.flip(0)
        return found

    def _half(self, exponent: int) -> list[int]:
        """The frequencies of 0, 1, … up to the last that may be above 1."""
        with localcontext(EXACT):
            square = Decimal(self.square) / Decimal(2) ** exponent
            linear = Decimal(self.linear) / (Decimal(2) ** exponent).sqrt()
            weight, ratio = Decimal(1), (-linear - square).exp()
            falling, weights = (-2 * square).exp(), [2**60]
            while len(weights) <= self.reach and weights[-1]:
                weight, ratio = weight * ratio, ratio * falling
                weights.append(int(weight * 2**60))
        total, spare = 2 * sum(weights) - weights[0], ans.TOTAL - 2 * self.reach - 1
        shares = [weight * spare // total for weight in weights]
        rest = spare - 2 * sum(shares) + shares[0]
        return [1 + shares[0] + rest, *(1 + share for share in shares[1:])]


@dataclass(frozen=True)
class Exponents:
    """For each entry (i, j) of a matrix the factor 2^((row[i] + column[j]) / 2).

    Args:
        row, column: shapes (out,) and (in,), integers in 0..255; without bits where all are 0.

    Raises:
        ValueError: something else.
    """

    row: Tensor
    column: Tensor

    def __post_init__(self) -> None:
        for name, values in (("row", self.row), ("column", self.column)):
            if values.ndim != 1 or not len(values) or values.is_floating_point():
                raise ValueError(
                    f"the exponents of each {name} are a vector of integers, not of shape "
                    f"{tuple(values.shape)} and {values.dtype}"
                )
            least, most = torch.stack(values.aminmax()).tolist()
            if not 0 <= least <= most <= LARGEST_EXPONENT:
                raise ValueError(
                    f"the exponents of each {name} must lie in 0..{LARGEST_EXPONENT}, not in "
                    f"{least}..{most}"
                )

    def total(self) -> Tensor:
        """row[i] + column[j], (out, in), int64."""
        return self.row.long()[:, None] + self.column.long()

    def factors(self, dtype: torch.dtype) -> Tensor:
        """The factors, (out, in)."""
        return torch.exp2(self.total().to(dtype) / 2)

    @property
    def bits(self) -> int:
        """Bits that storing them takes, without the padding of the last byte of each."""
        return sum(len(values) * width(values) for values in (self.row, self.column))


def width(values: Tensor) -> int:
    """Bits of the largest of integers."""
    return int(values.max()).bit_length()


def contexts(law: Law, spreads: Exponents) -> tuple[Tensor, Tensor]:
    """Of each code, in order, its row of the frequencies, and these."""
    exponents = spreads.total().flatten()
    return exponents, law.frequencies(range(int(exponents.max()) + 1))
