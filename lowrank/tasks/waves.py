"""Waveforms made ready: of one length, of one loudness."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def padded(wave: Tensor, samples: int) -> Tensor:
    """A wave (…, any) with zeros at its end, (…, samples).

    Raises:
        ValueError: it is longer than that.
    """
    missing = samples - wave.shape[-1]
    if missing < 0:
        raise ValueError(f"a wave of {wave.shape[-1]} samples is longer than samples={samples}")
    return F.pad(wave, (0, missing))


def at_peak(wave: Tensor, peak: float = 0.95) -> Tensor:
    """A wave scaled so that its largest absolute value is `peak`.

    Raises:
        ValueError: it is silent or not finite, and cannot be scaled so.
    """
    largest = float(wave.abs().max()) if wave.numel() else 0.0
    if not 0 < largest < float("inf"):
        raise ValueError(f"a wave with the largest absolute value {largest} has no loudness")
    return wave / largest * peak
