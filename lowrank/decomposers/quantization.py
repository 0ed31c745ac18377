"""Round to nearest: evenly spaced levels, a scale for each group of weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lowrank.decomposers.checks import check_one_of
from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Factorization, Quantized
from lowrank.factorizations.packing import Layout, check_bits, check_group_size
from lowrank.factorizations.quantized import symmetric_zero
from lowrank.norms import Norm

SCALE_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
# Scales that the search for least squares tries, in those of the range: up to 1.5, where the one
# positive level of 2 bits meets the largest weight, and down to 1/16 for 1 bit and heavy tails.
FACTORS = tuple(1.5 * 2.0 ** (-step / 10) for step in range(47))

# A scale of this share of the largest adds to the squared error 2^-20 of what that one does.
NEGLIGIBLE = 2.0**-10

# Weights whose scales are searched together.
PIECE = 2**16


@dataclass(frozen=True)
class Quantization(Decomposer):
    """W ≈ (code − zero) · scale, each weight rounded to the nearest level.

    With ``scale="range"`` no weight is clipped: |W − Ŵ| ≤ |scale|/2 everywhere (scales are rounded
    up to their stored dtype, before the codes are made), so one bit more about halves the error.
    Needs no data. 8 bits cost next to nothing; at 4 bits smaller groups help; at 2 or 3 rounding
    without data is poor, and at 1 bit symmetric levels have no zero.

    Takes bits + 16 / group_size bits for each weight, with zero points bits / group_size more, so
    groups must be much larger than 16 / bits to pay.

    Args:
        bits: of a code, 1..8.
        group_size: consecutive inputs that share a scale; ``"channel"`` (a row) or ``"tensor"``.
        symmetric: no zero points. Levels are −2^(bits−1) … 2^(bits−1) − 1 times a scale whose sign
            puts the group's largest weight on the longer side: |scale| = max(largest / 2^(bits−1),
            largest of the other sign / (2^(bits−1) − 1/2)). If not symmetric, levels span
            [min(w, 0), max(w, 0)] and an integer zero point says which of them is exactly 0: better
            for one-sided weights.
        scale: ``"range"``, or ``"mse"``: least squared error, by a search over smaller ranges and
            then least squares for fixed codes in turn with codes for fixed scales. Not the global
            optimum, but never worse than the range; clips outliers, and so may lose quality where
            they matter. Pays at 4 bits and fewer.
        scale_dtype: ``"float16"``, ``"bfloat16"`` (the range of float32, 3 digits fewer) or
            ``"float32"``.

    Raises:
        ValueError: a hyperparameter that does not exist; a scale too large for `scale_dtype`, or
            too near 0 for it, unless it may be rounded up because that is still below 2^-10 of the
            matrix's largest scale.

    Source: Jacob et al., CVPR 2018, section 2 (zero points); Banner et al., NeurIPS 2019
    (clipping).
    """

    bits: int
    group_size: int | str = "channel"
    symmetric: bool = True
    scale: Literal["range", "mse"] = "range"
    scale_dtype: str = "float16"

    def __post_init__(self) -> None:
        check_bits(self.bits)
        check_group_size(self.group_size)
        check_one_of("scale", self.scale, ("range", "mse"))
        check_one_of("scale_dtype", self.scale_dtype, SCALE_DTYPES)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        layout = Layout((weight.shape[0], weight.shape[1]), self.bits, self.group_size)
        # In float64, so that no square overflows and codes are those of the exact quotient.
        groups = layout.split(weight.double())
        grid = self._range_grid(groups)
        if self.scale == "mse":
            # Piece by piece: each fits in the cache, and is done when its own groups are.
            rows = max(1, PIECE // layout.width)
            pieces = (groups, layout.filled(weight.device), grid.scale, grid.zero)
            found = [
                self._least_squares(part, filled, Grid(self.bits, scale, zero))
                for part, filled, scale, zero in zip(*(p.split(rows) for p in pieces), strict=True)
            ]
            scale, zero = torch.cat([g.scale for g in found]), torch.cat([g.zero for g in found])
            grid = Grid(self.bits, scale, zero)
        codes = layout.join(grid.codes(groups)).to(torch.uint8)
        zero = None if self.symmetric else grid.zero.to(torch.uint8)
        scale = grid.scale.to(SCALE_DTYPES[self.scale_dtype])
        return Quantized(layout, codes, scale, zero, weight.dtype)

    def _range_grid(self, groups: Tensor) -> Grid:
        """Levels that span each group (count, width)."""
        if self.symmetric:
            return self._symmetric_grid(groups)
        low, high = groups.amin(dim=1).clamp_max(0), groups.amax(dim=1).clamp_min(0)
        top = 2**self.bits - 1
        scale = _round_up((high - low) / top, self.scale_dtype)
        return Grid(self.bits, scale, _divide(-low, scale).round().clamp(0, top))

    def _symmetric_grid(self, groups: Tensor) -> Grid:
        """Levels without zero points that span each group, the largest weight on the longer side.

        Systematically rounding the largest weights down costs much of a network's accuracy, and so
        does a level less: ResNet-20 at 4 bits has 90.0 % with the sign, 87.4 % with half a step
        to spare on either side (CIFAR-10, one scale a channel).
        """
        high, low = groups.amax(dim=1).clamp_min(0), groups.amin(dim=1).clamp_max(0).neg()
        longer, shorter = torch.maximum(high, low), torch.minimum(high, low)
        half = 2 ** (self.bits - 1)
        # One bit has as many levels on either side.
        step = torch.maximum(longer / half, shorter / (half - 0.5)) if half > 1 else 2 * longer
        scale = _round_up(step, self.scale_dtype)
        zero = torch.full_like(scale, symmetric_zero(self.bits))
        return Grid(self.bits, torch.where(high > low, -scale, scale), zero)

    def _least_squares(self, groups: Tensor, filled: Tensor, grid: Grid) -> Grid:
        """The best found grid for each group; `filled` says which entries are weights."""
        best, error = grid, grid.error(groups, filled)
        # The best scale may have the other sign than the range, whose largest weight it clips.
        signs = (1, -1) if self.symmetric and self.bits > 1 else (1,)
        for factor in (sign * factor for factor in FACTORS for sign in signs):
            trial = replace(grid, scale=self._stored(grid.scale * factor))
            best, error = best.better(error, trial, trial.error(groups, filled))
        shifts = (0,) if self.symmetric else (0, -1, 1)
        while True:
            before = error
            levels = (best.codes(groups) - best.zero[:, None]) * filled
            fitted = _divide((groups * levels).sum(dim=1), levels.square().sum(dim=1))
            scale = self._stored(fitted)
            for shift in shifts:
                zero = (best.zero + shift).clamp(0, 2**self.bits - 1)
                trial = replace(best, scale=scale, zero=zero)
                best, error = best.better(error, trial, trial.error(groups, filled))
            if torch.equal(error, before):  # It falls at every pass, and grids are finitely many.
                return best

    def _stored(self, scale: Tensor) -> Tensor:
        """Scales rounded to nearest as they are stored, in float64."""
        return scale.to(SCALE_DTYPES[self.scale_dtype]).double()


@dataclass(frozen=True)
class Grid:
    """The levels (0..2^bits − 1 less `zero`) · `scale` of each group, both (count,), float64."""

    bits: int
    scale: Tensor
    zero: Tensor

    def codes(self, groups: Tensor) -> Tensor:
        """The nearest codes of weights (count, width), float64."""
        steps = _divide(groups, self.scale[:, None])
        return (steps + self.zero[:, None]).round_().clamp_(0, 2**self.bits - 1)

    def error(self, groups: Tensor, filled: Tensor) -> Tensor:
        """Sum of squared errors of each group, (count,)."""
        rounded = (self.codes(groups) - self.zero[:, None]) * self.scale[:, None]
        return ((groups - rounded) * filled).square().sum(dim=1)

    def better(self, error: Tensor, other: Grid, other_error: Tensor) -> tuple[Grid, Tensor]:
        """For each group the grid of smaller error, and that error."""
        wins = other_error < error
        scale = torch.where(wins, other.scale, self.scale)
        zero = torch.where(wins, other.zero, self.zero)
        return replace(self, scale=scale, zero=zero), torch.where(wins, other_error, error)


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, 0 where the denominator is 0."""
    return torch.where(denominator != 0, numerator / denominator, 0.0)


def _round_up(scale: Tensor, dtype_name: str) -> Tensor:
    """The next scale not below that `dtype_name` holds, as float64.

    Next to 0 it may be much larger. That does not matter where it is still below NEGLIGIBLE of the
    matrix's largest scale: so is then the error, and most codes become zero. Such are the padding
    row of an embedding, and rows of what an adapter leaves of a weight.

    Raises:
        ValueError: it holds none, or only one more than 1/8 larger where that matters.
    """
    dtype = SCALE_DTYPES[dtype_name]
    stored = scale.to(dtype)
    # The bits of positive floats, read as integers, are in the order of the floats.
    bits = stored.view(torch.int16 if dtype.itemsize == 2 else torch.int32)
    stored = (bits + (stored.double() < scale).to(bits.dtype)).view(dtype).double()
    coarse = (stored > 1.125 * scale) & (stored > NEGLIGIBLE * scale.max())
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
