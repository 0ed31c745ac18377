"""Search for the levels of least weighted squared error, of all groups of a matrix at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lowrank.approximation.quantization_grid import QuantizationGrid, as_stored
from lowrank.numerics.pieces import numbers_at_once

# The scales that are tried, relative to that of the range: up to 1.5, where the one positive level
# of 2 bits meets the largest weight, and down to 1/16 for 1 bit and heavy tails.
FACTORS = tuple(1.5 * 2.0 ** (-step / 10) for step in range(47))


def least_squares(
    groups: Tensor,
    weightings: Sequence[Tensor],
    grid: QuantizationGrid,
    scale_dtype: str,
    symmetric: bool,
) -> list[QuantizationGrid]:
    """The best found levels of each group for each weighting of errors: of the scales FACTORS times
    the given one, with either sign where levels are symmetric; then by turns the codes for the
    scale, and the scale, by least squares, and zero point, by ±1, for the codes.

    It goes piece by piece, so that what a piece needs stays in the cache, and waits for numbers
    once in each turn.

    Args:
        groups: weights (count, width), float64.
        weightings: each of the shape of the groups, what their squared errors count.
        grid: levels that span each group.
        scale_dtype: in which scales are stored.
        symmetric: whether levels have no zero points.
    """
    together = len(weightings) * groups.shape[1]
    room = groups.new_empty(max(numbers_at_once(groups.device), together))
    rows = max(1, len(room) // max(2, len(weightings)) // groups.shape[1])
    # The best scale may have the other sign than the range, whose largest weight it clips.
    signs = (1.0, -1.0) if symmetric and grid.bits > 1 else (1.0,)
    factors = [sign * factor for factor in FACTORS for sign in signs]
    tried = torch.tensor(factors, dtype=groups.dtype).to(groups.device)
    searches = []
    for first in range(0, len(groups), rows):
        part = slice(first, first + rows)
        scales = as_stored(grid.scale[part] * tried[:, None], scale_dtype)
        search = _Search(
            groups[part],
            torch.stack([weighting[part] for weighting in weightings]),
            replace(grid, scale=grid.scale[part], zero=grid.zero[part]),
            scale_dtype,
            symmetric,
            room,
        )
        search.try_scales(torch.cat([grid.scale[None, part], scales]))
        searches.append(search)
    left = searches
    # The error falls at every turn, and grids are finitely many.
    while left:
        fell = torch.stack([search.turn() for search in left]).tolist()
        left = [search for search, goes_on in zip(left, fell, strict=True) if goes_on]
    scale, zero = (torch.cat([getattr(s, n) for s in searches], dim=1) for n in ("scale", "zero"))
    return [QuantizationGrid(grid.bits, *levels) for levels in zip(scale, zero, strict=True)]


class _Search:
    """A search for the levels of some groups in n weightings of their errors.

    Args:
        groups: (rows, width).
        weights: (n, rows, width).
        grid: to begin with.
        room: memory for what is computed on the way, at least n · rows · width numbers.

    Attributes:
        scale, zero: the best so far, (n, rows).
    """

    def __init__(
        self,
        groups: Tensor,
        weights: Tensor,
        grid: QuantizationGrid,
        scale_dtype: str,
        symmetric: bool,
        room: Tensor,
    ) -> None:
        self.groups, self.weights, self.room = groups, weights, room
        self.scale_dtype, self.symmetric, self.bits = scale_dtype, symmetric, grid.bits
        shape = (len(weights), len(groups))
        self.scale, self.zero = grid.scale.expand(shape), grid.zero.expand(shape)
        self._divisor = self.error = self.scale

    def try_scales(self, scales: Tensor) -> None:
        """Take for each group the best of scales (n, rows), in each weighting."""
        together = max(1, len(self.room) // self.groups.numel())
        errors: list[list[Tensor]] = [[] for _ in self.weights]
        parts = zip(scales.split(together), as_divisor(scales).split(together), strict=True)
        for part, divisor in parts:
            squares = self._squares(part, divisor, self.zero[:1])
            for weights, own in zip(self.weights[1:], errors[1:], strict=True):
                own.append((squares * weights).sum(dim=2))
            errors[0].append(squares.mul_(self.weights[0]).sum(dim=2))
        known = torch.stack([torch.cat(own) for own in errors])
        # Of a scale beyond the range of its dtype.
        found = known.nan_to_num_(nan=torch.inf, posinf=torch.inf).min(dim=1)
        self.error, self.scale = found.values, scales.gather(0, found.indices)
        self._divisor = as_divisor(self.scale)

    def turn(self) -> Tensor:
        """One turn of codes and levels; whether an error fell, a boolean of shape ()."""
        before = self.error
        levels = self._levels(self._divisor, self.zero)
        counted = levels * self.weights
        products = (self.groups * counted).sum(dim=2)
        # Of a group whose levels are all 0 both sums are.
        fitted = products.div_(levels.mul_(counted).sum(dim=2)).nan_to_num_(nan=0.0)
        scale = as_stored(fitted, self.scale_dtype)
        divisor = as_divisor(scale)
        for shift in (0,) if self.symmetric else (0, -1, 1):
            zero = (self.zero + shift).clamp_(0, 2**self.bits - 1) if shift else self.zero
            error = self._squares(scale, divisor, zero).mul_(self.weights).sum(dim=2)
            wins = error < self.error
            self.error = torch.where(wins, error, self.error)
            self.scale = torch.where(wins, scale, self.scale)
            self._divisor = torch.where(wins, divisor, self._divisor)
            self.zero = torch.where(wins, zero, self.zero) if shift else self.zero
        return (self.error < before).any()

    def _squares(self, scales: Tensor, divisors: Tensor, zero: Tensor) -> Tensor:
        """The squared errors of all weights, (n, rows, width), in `room`, for scales (n, rows)."""
        levels = self._levels(divisors, zero)
        missing = torch.addcmul(self.groups, levels, scales[:, :, None], value=-1, out=levels)
        return missing.square_()

    def _levels(self, divisors: Tensor, zero: Tensor) -> Tensor:
        """The nearest codes less the zero point, (n, rows, width), in `room`."""
        shape = (len(divisors), *self.groups.shape)
        room = self.room[: shape[0] * self.groups.numel()].view(shape)
        levels = torch.div(self.groups, divisors[:, :, None], out=room)
        top = 2**self.bits - 1
        if self.symmetric and self.bits > 1:
            # An even zero point moves no rounding, so that it need not be added before.
            half = 2 ** (self.bits - 1)
            return levels.round_().clamp_(-half, top - half)
        return levels.add_(zero[:, :, None]).round_().clamp_(0, top).sub_(zero[:, :, None])


def as_divisor(scales: Tensor) -> Tensor:
    """Scales to divide by: infinite where a scale is 0 and its group has one level."""
    return scales.masked_fill(scales == 0, torch.inf)
