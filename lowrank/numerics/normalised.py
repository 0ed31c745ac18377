"""Weights scaled by a power of two to about 1, so that no computation overflows float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Normalised:
    """A weight, and the same weight scaled to about 1, so that no computation overflows float64.

    Attributes:
        weight: shape (out, in).
        exponent: of the power of two at or below its largest magnitude; 0 if it is zero.
        unit: the weight divided by that, float64.
    """

    weight: Tensor
    exponent: int
    unit: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Normalised:
        """A weight and its size."""
        largest = float(weight.abs().max())
        exponent = math.frexp(largest)[1] - 1 if largest else 0
        return cls(weight, exponent, times_power(weight.double(), -exponent))

    def units(self, matrix: Tensor) -> Tensor:
        """An approximation of the weight as one of `unit`."""
        return times_power(matrix.detach().double(), -self.exponent)


def times_power(tensor: Tensor, exponent: int) -> Tensor:
    """A tensor times 2^exponent, in two steps: the power itself may be beyond the dtype's range."""
    half = exponent // 2
    return tensor * 2.0**half * 2.0 ** (exponent - half)


def as_float32(step: float, exponent: int) -> tuple[float, int]:
    """A number of normal size and the rest of a power of two, 0 if float32 has step · 2^exponent.

    Raises:
        ValueError: a step that is not above 0 and finite.
    """
    if not 0 < step < math.inf:
        raise ValueError(f"step={step} between levels must be above 0 and finite")
    number, power = math.frexp(step)
    if -125 <= power + exponent <= 127:
        return math.ldexp(number, power + exponent), 0
    return number, power + exponent
