"""Log-mel spectrograms, as the networks that take them were trained with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.tasks.mel_filters import htk_corners, of_equal_area, slaney_corners, triangles


def keyword_mels(
    waves: Tensor,
    sampling_rate: int = 16_000,
    n_fft: int = 1024,
    hop: int = 512,
    bands: int = 40,
    lowest: float = 0.0,
    highest: float = 8000.0,
    offset: float = 1e-9,
) -> Tensor:
    """The inputs of `BCResNet`: log2(mel + offset) of the power, bands on HTK's scale.

    Args:
        waves: (batch, samples), in [−1, 1], longer than half of `n_fft`; `padded` makes them equal.

    Returns:
        (batch, 1, bands, 1 + samples // hop), in the dtype of `waves`.

    Raises:
        ValueError: `waves` is no such tensor.
    """
    _check_waves(waves, n_fft // 2)
    spectrum = _spectrum(F.pad(waves, (n_fft // 2, n_fft // 2), mode="reflect"), n_fft, hop)
    power = spectrum.real.square() + spectrum.imag.square()
    filters = triangles(htk_corners(bands, lowest, highest), n_fft, sampling_rate)
    return torch.log2(filters.to(power) @ power + offset).unsqueeze(1)


def speech_mels(
    waves: Tensor,
    sampling_rate: int = 16_000,
    n_fft: int = 512,
    hop: int = 160,
    bands: int = 40,
    lowest: float = 60.0,
    highest: float = 8000.0,
    offset: float = 1e-6,
) -> Tensor:
    """The inputs of `SpeechConvolutions`: `keyword_mels` less the mean of each band over a sound,
    over the deviation of all bands, by which loudness and microphone weigh less.

    Args:
        waves: (batch, samples), in [−1, 1], without padding.

    Returns:
        (batch, 1 + samples // hop, bands), in the dtype of `waves`.

    Raises:
        ValueError: `waves` is no such tensor.
    """
    found = keyword_mels(waves, sampling_rate, n_fft, hop, bands, lowest, highest, offset)
    frames = found[:, 0].transpose(1, 2)
    centred = frames - frames.mean(dim=1, keepdim=True)
    return centred / centred.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-6)


def vocoder_mels(
    waves: Tensor,
    sampling_rate: int = 22_050,
    n_fft: int = 1024,
    hop: int = 256,
    bands: int = 80,
    lowest: float = 0.0,
    highest: float = 8000.0,
    least: float = 1e-5,
) -> Tensor:
    """The inputs of `HiFiGANGenerator`: ln(max(mel, least)) of the magnitude, on Slaney's scale.

    Args:
        waves: (batch, samples), in [−1, 1], longer than (n_fft − hop) / 2; `at_peak` scales them as
            in training.

    Returns:
        (batch, bands, samples // hop), in the dtype of `waves`, if n_fft − hop is even.

    Raises:
        ValueError: `waves` is no such tensor.
    """
    padding = (n_fft - hop) // 2
    _check_waves(waves, padding)
    spectrum = _spectrum(F.pad(waves, (padding, padding), mode="reflect"), n_fft, hop)
    # The addend keeps the gradient finite where the spectrum is 0.
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
    corners = slaney_corners(bands, lowest, highest)
    filters = of_equal_area(triangles(corners, n_fft, sampling_rate), corners)
    return torch.log((filters.to(magnitude) @ magnitude).clamp(min=least))


def _spectrum(waves: Tensor, n_fft: int, hop: int) -> Tensor:
    """(batch, n_fft / 2 + 1, frames), complex, of windows that lie inside the waves."""
    window = torch.hann_window(n_fft, dtype=waves.dtype, device=waves.device)
    return torch.stft(waves, n_fft, hop, window=window, center=False, return_complex=True)


def _check_waves(waves: Tensor, padding: int) -> None:
    if waves.ndim != 2 or not waves.is_floating_point():
        raise ValueError(
            "waves must be real numbers of shape (batch, samples), and are "
            f"{waves.dtype} of shape {tuple(waves.shape)}"
        )
    if waves.shape[1] <= padding:
        raise ValueError(
            f"waves of {waves.shape[1]} samples are too short: {padding} are reflected at either "
            "end, which takes more than that"
        )
