"""Distances between log-mel spectrograms, frame by frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of mel-cepstral distortion, without that of loudness.
COEFFICIENTS = 13


def log_mel_distance(mels: Tensor, wanted: Tensor) -> Tensor:
    """The mean over the bands of |difference|, (batch, frames).

    Args:
        mels, wanted: natural logarithms of magnitudes, (batch, bands, frames).
    """
    return (mels - wanted).abs().mean(dim=1)


def cepstral_distortion(mels: Tensor, wanted: Tensor) -> Tensor:
    """Mel-cepstral distortion of each frame, in dB, (batch, frames): 10 / ln 10 · √(2 Σ (c − ĉ)²).

    The cepstrum c is that of ln mel = c₀ + Σ c_m cos(π m (band + ½) / bands), and the sum over m =
    1..13: loudness does not count. Frames are of one time, so nothing is aligned.

    Args:
        mels, wanted: natural logarithms of magnitudes, (batch, bands, frames), of 14 bands or more.

    Source: Kubichek, IEEE Pacific Rim Conference 1993.
    """
    apart = (mels - wanted).double()
    bands = apart.shape[1]
    numbers = torch.arange(1, COEFFICIENTS + 1, dtype=torch.float64, device=apart.device)
    places = torch.arange(bands, dtype=torch.float64, device=apart.device) + 0.5
    cosines = torch.cos(math.pi * numbers[:, None] * places / bands) * 2 / bands
    return 10 / math.log(10) * (2 * (cosines @ apart).square().sum(dim=1)).sqrt()
