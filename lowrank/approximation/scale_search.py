"""Search for the levels of least weighted squared error, of all groups of a matrix at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.approximation.quantization_grid import QuantizationGrid, as_stored, divide
from lowrank.numerics.pieces import numbers_at_once

# The scales that are tried, relative to that of the range: up to 1.5, where the one positive level
# of 2 bits meets the largest weight, and down to 1/16 for 1 bit and heavy tails.
FACTORS = tuple(1.5 * 2.0 ** (-step / 10) for step in range(47))


def least_squares(
    groups: Tensor, weights: Tensor, grid: QuantizationGrid, scale_dtype: str, symmetric: bool
) -> QuantizationGrid:
    """The best found levels of each group: of the scales FACTORS times the given one, with either
    sign where levels are symmetric; then by turns the codes for the scale, and the scale, by least
    squares, and zero point, by ±1, for the codes.

    It goes piece by piece, so that what a piece needs stays in the cache, and waits for numbers
    once in each turn.

    Args:
        groups: weights (count, width), float64.
        weights: of their squared errors, of the same shape.
        grid: levels that span each group.
        scale_dtype: in which scales are stored.
        symmetric: whether levels have no zero points.
    """
    room = groups.new_empty(numbers_at_once(groups.device))
    rows = max(1, len(room) // 2 // groups.shape[1])
    if len(room) < groups.shape[1]:
        room = groups.new_empty(groups.shape[1])
    parts = (groups.split(rows), weights.split(rows), grid.scale.split(rows), grid.zero.split(rows))
    pieces = [
        _Piece(*tensors, room, bits=grid.bits, scale_dtype=scale_dtype, symmetric=symmetric)
        for tensors in zip(*parts, strict=True)
    ]
    # The best scale may have the other sign than the range, whose largest weight it clips.
    signs = (1.0, -1.0) if symmetric and grid.bits > 1 else (1.0,)
    factors = torch.tensor([s * f for f in FACTORS for s in signs], dtype=groups.dtype)
    for piece in pieces:
        piece.try_scales(factors.to(groups.device))
    left = pieces
    # The error falls at every turn, and grids are finitely many.
    while left:
        fell = torch.stack([piece.refine() for piece in left]).tolist()
        left = [piece for piece, goes_on in zip(left, fell, strict=True) if goes_on]
    scale, zero = (torch.cat([getattr(piece, n) for piece in pieces]) for n in ("scale", "zero"))
    return QuantizationGrid(grid.bits, scale, zero)


@dataclass
class _Piece:
    """Some groups (rows, width) with their best levels so far, (rows,).

    Attributes:
        room: memory for what is computed on the way, at least rows · width numbers.
    """

    groups: Tensor
    weights: Tensor
    scale: Tensor
    zero: Tensor
    room: Tensor
    bits: int
    scale_dtype: str
    symmetric: bool

    def __post_init__(self) -> None:
        top = 2**self.bits - 1
        # An even zero point moves no rounding, so that it need not be added before.
        self._is_shifted = not self.symmetric or self.bits == 1
        shift = 0 if self._is_shifted else 2 ** (self.bits - 1)
        self._limits = (-shift, top - shift)
        self.error: Tensor | None = None

    def try_scales(self, factors: Tensor) -> None:
        """Take the best of the present scale and its products with factors."""
        tried = as_stored(self.scale * factors[:, None], self.scale_dtype)
        tried = torch.cat([self.scale[None], tried])
        together = max(1, len(self.room) // self.groups.numel())
        parts = zip(tried.split(together), as_divisor(tried).split(together), strict=True)
        errors = [self._errors(scales, divisors, self.zero[None]) for scales, divisors in parts]
        self.error, best = torch.cat(errors).min(dim=0)
        self.scale = tried.gather(0, best[None])[0]

    def refine(self) -> Tensor:
        """One turn of codes and levels; whether an error fell, a boolean of shape ()."""
        assert self.error is not None
        before = self.error
        levels = self._levels(as_divisor(self.scale[None]), self.zero[None])[0]
        counted = levels * self.weights
        products = (self.groups * counted).sum(dim=1)
        fitted = divide(products, levels.mul_(counted).sum(dim=1))
        scale = as_stored(fitted, self.scale_dtype)
        divisor = as_divisor(scale)[None]
        for shift in self._shifts:
            zero = (self.zero + shift).clamp_(0, 2**self.bits - 1) if shift else self.zero
            error = self._errors(scale[None], divisor, zero[None])[0]
            wins = error < self.error
            self.scale = torch.where(wins, scale, self.scale)
            self.zero = torch.where(wins, zero, self.zero)
            self.error = torch.where(wins, error, self.error)
        return (self.error < before).any()

    @property
    def _shifts(self) -> Sequence[int]:
        return (0,) if self.symmetric else (0, -1, 1)

    def _levels(self, divisors: Tensor, zero: Tensor) -> Tensor:
        """The nearest codes less the zero point, (n, rows, width), for scales (n, rows)."""
        shape = (len(divisors), *self.groups.shape)
        room = self.room[: shape[0] * self.groups.numel()].view(shape)
        levels = torch.div(self.groups, divisors[:, :, None], out=room)
        if self._is_shifted:
            levels.add_(zero[:, :, None])
        levels.round_().clamp_(*self._limits)
        return levels.sub_(zero[:, :, None]) if self._is_shifted else levels

    def _errors(self, scales: Tensor, divisors: Tensor, zero: Tensor) -> Tensor:
        """The weighted squared errors of each group, (n, rows), for scales (n, rows)."""
        levels = self._levels(divisors, zero)
        missing = torch.addcmul(self.groups, levels, scales[:, :, None], value=-1, out=levels)
        return missing.square_().mul_(self.weights).sum(dim=2)


def as_divisor(scales: Tensor) -> Tensor:
    """Scales to divide by: infinite where a scale is 0 and its group has one level."""
    return torch.where(scales != 0, scales, torch.inf)
