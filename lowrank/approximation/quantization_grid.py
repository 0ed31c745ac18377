"""Evenly spaced levels of groups of weights, and the rounding of their scales to 16 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowrank.factorizations.packing import Layout

SCALE_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
# A scale of this share of the largest adds 2^-20 of the squared error of the largest.
NEGLIGIBLE = 2.0**-10


@dataclass(frozen=True)
class QuantizationGrid:
    """The levels (0..2^bits − 1 less `zero`) · `scale` of each group, both (count,), float64."""

    bits: int
    scale: Tensor
    zero: Tensor

    def codes(self, groups: Tensor) -> Tensor:
        """The nearest codes of weights (count, width), float64."""
        steps = divide(groups, self.scale[:, None])
        return (steps + self.zero[:, None]).round_().clamp_(0, 2**self.bits - 1)

    def values(self, codes: Tensor) -> Tensor:
        """The levels that codes (count, width) stand for."""
        return (codes - self.zero[:, None]) * self.scale[:, None]

    def within_range(self, codes: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
        """Codes (out, in), clamped to those whose levels are in the range of `dtype`.

        A weight near the end of the range of its dtype may be nearest to a level beyond it.
        """
        largest = torch.finfo(dtype).max
        reach = torch.maximum(self.zero.abs(), (2**self.bits - 1 - self.zero).abs())
        if not bool((reach * self.scale.abs() > largest).any()):
            return codes
        room = (largest / self.scale.abs())[:, None]
        low, high = (self.zero[:, None] - room).ceil(), (self.zero[:, None] + room).floor()
        groups = layout.split(codes.double())
        return layout.join(torch.minimum(torch.maximum(groups, low), high)).to(codes.dtype)

    def error(self, groups: Tensor, weights: Tensor) -> Tensor:
        """Sum of the weighted squared errors of each group, (count,)."""
        return ((groups - self.values(self.codes(groups))).square() * weights).sum(dim=1)

    def better(
        self, error: Tensor, other: QuantizationGrid, other_error: Tensor
    ) -> tuple[QuantizationGrid, Tensor]:
        """For each group the grid of smaller error, and that error."""
        wins = other_error < error
        scale = torch.where(wins, other.scale, self.scale)
        zero = torch.where(wins, other.zero, self.zero)
        return replace(self, scale=scale, zero=zero), torch.where(wins, other_error, error)


def as_stored(values: Tensor, dtype_name: str) -> Tensor:
    """Values rounded to nearest as they are stored, in float64."""
    return values.to(SCALE_DTYPES[dtype_name]).double()


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, 0 where the denominator is 0."""
    return torch.where(denominator != 0, numerator / denominator, 0.0)


def round_up(scale: Tensor, dtype_name: str, largest: Tensor | None = None) -> Tensor:
    """The smallest scale in `dtype_name` that is not below the given one, as float64.

    Near 0 it may be much larger. That does not matter while it is below NEGLIGIBLE times the
    largest scale of the matrix: then the error is negligible too, and most codes become zero. Such
    rows are the padding row of an embedding, and rows of the residual of an adapter.

    Args:
        largest: scale of the matrix; None if all of its scales are given.

    Raises:
        ValueError: it holds none, or only one more than 1/8 larger where that matters.
    """
    dtype = SCALE_DTYPES[dtype_name]
    stored = scale.to(dtype)
    # The bits of positive floats, read as integers, are in the order of the floats.
    bits = stored.view(torch.int16 if dtype.itemsize == 2 else torch.int32)
    stored = (bits + (stored.double() < scale).to(bits.dtype)).view(dtype).double()
    negligible = NEGLIGIBLE * (scale.max() if largest is None else largest)
    coarse = (stored > 1.125 * scale) & (stored > negligible)
    for wrong, what in (
        (~stored.isfinite(), "above the largest"),
        (coarse, "too near 0 for the smallest"),
    ):
        if bool(wrong.any()):
            raise ValueError(
                f"{int(wrong.sum())} of {scale.numel()} scales, such as "
                f"{float(scale[wrong][0]):.3g}, are {what} of scale_dtype={dtype_name!r}. Use "
                "scale_dtype='bfloat16', which has the range of float32 in the same bits, or "
                "'float32', or rescale the weight."
            )
    return stored
