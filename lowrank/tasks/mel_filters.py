"""Triangular filters that sum the bins of a spectrum into bands of a mel scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Where Slaney's scale turns from linear to logarithmic, and the ratio of 27 steps from there on.
BREAK_HZ, BREAK_MEL, STEP = 1000.0, 15.0, math.log(6.4) / 27


def htk_corners(bands: int, lowest: float, highest: float) -> Tensor:
    """The bands + 2 corners of neighbouring filters in Hz, float64, equally far on HTK's scale.

    Its mel(f) = 2595 log10(1 + f / 700).
    """
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (lowest, highest))
    return 700 * (10 ** (_between(low, high, bands) / 2595) - 1)


def slaney_corners(bands: int, lowest: float, highest: float) -> Tensor:
    """The bands + 2 corners of neighbouring filters in Hz, float64, equally far on Slaney's scale.

    Its mel(f) = 3 f / 200 below 1,000 Hz, and 15 + 27 ln(f / 1000) / ln 6.4 above.

    Source: Slaney, Auditory Toolbox, Interval Research Technical Report 1998-010.
    """
    low, high = (
        3 * hertz / 200 if hertz < BREAK_HZ else BREAK_MEL + math.log(hertz / BREAK_HZ) / STEP
        for hertz in (lowest, highest)
    )
    mels = _between(low, high, bands)
    linear, logarithmic = 200 * mels / 3, BREAK_HZ * torch.exp(STEP * (mels - BREAK_MEL))
    return torch.where(mels < BREAK_MEL, linear, logarithmic)


def triangles(corners: Tensor, n_fft: int, sampling_rate: int) -> Tensor:
    """The weights of each band in the bins of a spectrum, (bands, n_fft / 2 + 1), float64.

    Each rises linearly in Hz from one corner to the next, where it is 1, and falls to the one after
    that.

    Args:
        corners: (bands + 2,), in Hz, rising.

    Raises:
        ValueError: they are not, or reach beyond half of the sampling rate.
    """
    # The last corner is computed, and may be above the end of the scale by a rounding error.
    is_below = float(corners[-1]) <= sampling_rate / 2 * (1 + 1e-9)
    if len(corners) < 3 or not (corners.diff() > 0).all() or not is_below:
        raise ValueError(
            f"corners={corners.tolist()[:5]}…, of {len(corners)}, must be three or more that rise, "
            f"in Hz and up to half of sampling_rate={sampling_rate}"
        )
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sampling_rate / n_fft
    left, middle, right = (corners[at : len(corners) - 2 + at, None] for at in range(3))
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    return torch.minimum(rising, falling).clamp(min=0)


def of_equal_area(filters: Tensor, corners: Tensor) -> Tensor:
    """Filters (bands, bins) scaled so that each triangle has the area 1 over Hz."""
    return filters * (2 / (corners[2:] - corners[:-2]))[:, None]


def _between(lowest: float, highest: float, bands: int) -> Tensor:
    return torch.linspace(lowest, highest, bands + 2, dtype=torch.float64)
