import math

import numpy as np
import pytest
import torch

from lowrank.tasks.mel_filters import htk_corners, of_equal_area, slaney_corners, triangles
from lowrank.tasks.spectrograms import keyword_mels, vocoder_mels


def wave(samples, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(samples)


def frames(samples, padding, n_fft, hop):
    """Windowed transforms by numpy, (bins, frames)."""
    longer = np.pad(samples, padding, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    starts = range(0, len(longer) - n_fft + 1, hop)
    return np.stack([np.fft.rfft(window * longer[at : at + n_fft]) for at in starts], axis=1)


def test_the_mels_of_keywords_are_those_of_the_formula():
    samples = wave(16_000)
    filters = triangles(htk_corners(40, 0.0, 8000.0), 1024, 16_000).numpy()
    power = np.abs(frames(samples, 512, 1024, 512)) ** 2
    found = keyword_mels(torch.from_numpy(samples)[None])
    assert found.shape == (1, 1, 40, 32)
    np.testing.assert_allclose(found[0, 0].numpy(), np.log2(filters @ power + 1e-9), rtol=1e-9)


def test_the_mels_of_the_vocoder_are_those_of_the_formula():
    samples = wave(3000)
    corners = slaney_corners(80, 0.0, 8000.0)
    filters = of_equal_area(triangles(corners, 1024, 22_050), corners).numpy()
    magnitude = np.sqrt(np.abs(frames(samples, 384, 1024, 256)) ** 2 + 1e-9)
    found = vocoder_mels(torch.from_numpy(samples)[None])
    assert found.shape == (1, 80, 3000 // 256)
    np.testing.assert_allclose(found[0].numpy(), np.log(filters @ magnitude), rtol=1e-9)


def test_silence_is_the_least_of_each():
    quiet = torch.zeros(1, 16_000)
    assert keyword_mels(quiet).unique().tolist() == pytest.approx([math.log2(1e-9)])
    assert vocoder_mels(quiet, least=0.5).unique().tolist() == pytest.approx([math.log(0.5)])


def test_a_tone_is_loudest_in_its_band():
    time = torch.arange(16_000) / 16_000
    tone = torch.sin(2 * math.pi * 1000 * time)[None]
    corners = htk_corners(40, 0.0, 8000.0)
    band = int((corners[1:-1] - 1000).abs().argmin())
    assert (keyword_mels(tone)[0, 0].argmax(dim=0) == band).all()


@pytest.mark.parametrize("mels", [keyword_mels, vocoder_mels])
def test_waves_of_a_batch_are_apart_and_have_a_gradient(mels):
    waves = torch.from_numpy(np.stack([wave(4000, 1), np.zeros(4000)])).requires_grad_()
    both = mels(waves)
    torch.testing.assert_close(both[:1], mels(waves[:1]))
    both.sum().backward()
    assert waves.grad is not None and waves.grad.isfinite().all() and waves.grad[0].any()
    assert mels(waves.float()).dtype == torch.float32


@pytest.mark.parametrize("mels", [keyword_mels, vocoder_mels])
@pytest.mark.parametrize(
    ("given", "text"),
    [
        (torch.zeros(4000), r"must be real numbers of shape \(batch, samples\)"),
        (torch.zeros(1, 4000, dtype=torch.int16), "are torch.int16"),
        (torch.zeros(1, 300), "waves of 300 samples are too short"),
    ],
)
def test_waves_that_have_no_mels(mels, given, text):
    with pytest.raises(ValueError, match=text):
        mels(given)
