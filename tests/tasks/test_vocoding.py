"""Vocoders: what counts, what is judged, and the published HiFi-GAN."""

import io
import math
import os
from dataclasses import replace

import mirrors
import numpy as np
import pytest
import scipy.fft
import soundfile
import torch
from datasets import Dataset, Features, Value

import lowrank
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import HubSpeech, Published, Training, Vocoding
from lowrank.tasks.spectral_distances import cepstral_distortion, log_mel_distance

REAL_HUB = os.environ.get("LOWRANK_HUB", "")
RATE = 4000
MELS = {"sampling_rate": RATE, "n_fft": 64, "hop": 16, "bands": 16, "highest": 2000.0}
TINY = {
    "num_mels": 16,
    "upsample_initial_channel": 16,
    "upsample_rates": [4, 4],
    "upsample_kernel_sizes": [8, 8],
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1]],
}
TASK = Vocoding(
    name="hums",
    architecture="hifigan_tiny",
    source=HubSpeech("me/hums", RATE),
    features="lowrank.tasks.spectrograms:vocoder_mels",
    feature_arguments=MELS,
    builder="lowrank.tasks.networks.hifigan:HiFiGANGenerator",
    arguments=TINY,
    weights=None,
    window=1024,
    calibration_size=5,
)


def sound(wave, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="FLAC")
    return {"bytes": file.getvalue(), "path": None}


def hums(count, seed):
    """Two tones in noise, of 1,200 to 5,000 samples; the first of 5,000."""
    random, rows = np.random.default_rng(seed), []
    for row in range(count):
        time = np.arange(5000 if row == 0 else int(random.integers(1200, 5000))) / RATE
        tones = sum(np.sin(2 * np.pi * pitch * time) for pitch in random.integers(80, 900, 2))
        rows.append(sound(0.2 * tones + 0.02 * random.standard_normal(len(time))))
    return {"audio": rows}


def save(folder, **splits):
    (folder / "data").mkdir(parents=True)
    sounds = Features(audio={"bytes": Value("binary"), "path": Value("string")})
    for split, rows in splits.items():
        made = Dataset.from_dict(rows, sounds)
        made.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    data = folder / "datasets" / "me"
    save(data / "hums", train=hums(6, 1), validation=hums(2, 2), test=hums(5, 3))
    save(data / "slow", test={"audio": [sound(np.ones(2000) / 2, 8000)]})
    save(data / "silent", test={"audio": [sound(np.zeros(2000))]})
    save(data / "noise", test={"audio": [{"bytes": b"no sound", "path": None}]})
    return folder


@pytest.fixture(autouse=True)
def mirror(hub, monkeypatch):
    mirrors.use(hub, monkeypatch)


def test_cepstral_distortion_is_that_of_the_cosine_transform():
    generator = torch.Generator().manual_seed(0)
    ours, wanted = torch.randn(2, 3, 20, 7, generator=generator, dtype=torch.float64)
    # Of type II without scaling, twice the sum of values times cosines.
    apart = scipy.fft.dct((ours - wanted).numpy(), axis=1)[:, 1:14] / 20
    expected = 10 / math.log(10) * np.sqrt(2 * (apart**2).sum(axis=1))
    np.testing.assert_allclose(cepstral_distortion(ours, wanted), expected, atol=1e-12)
    louder = cepstral_distortion(wanted + 0.3, wanted)
    torch.testing.assert_close(louder, torch.zeros_like(louder), atol=1e-12, rtol=0)
    assert log_mel_distance(wanted + 0.3, wanted).sub(0.3).abs().max() < 1e-12


def test_values_are_the_means_over_all_frames():
    model, totals = TASK.model(), []
    for wave in TASK.source.read("test"):
        mel = TASK.mels(wave.unsqueeze(0))
        with torch.no_grad():
            again = TASK.mels(model(mel).squeeze(1))
        totals.append((again - mel).abs().double().flatten())
    found = evaluate(model, TASK).metrics
    assert found["log_mel_l1"] == pytest.approx(float(torch.cat(totals).mean()), rel=1e-5)
    assert found["loss"] == pytest.approx(found["log_mel_l1"], rel=1e-5)
    # Padding is in no mean; what it does to the last frames before it is little.
    together = evaluate(model, TASK, batch_size=5).metrics
    assert together["log_mel_l1"] == pytest.approx(found["log_mel_l1"], rel=0.02)


def test_splits_are_clips_and_windows():
    lengths = [len(wave) for wave in TASK.source.read("train")]
    assert len(TASK.split("train")) == sum(length // 1024 for length in lengths)
    assert len(TASK.split("calibration")) == 5 and len(TASK.split("test")) == 5
    [mels] = TASK.split("calibration").batch(torch.arange(5)).inputs
    assert mels.shape == (5, 16, 64)
    assert TASK.example(3)[0].shape == (3, 16, RATE // 16)
    assert all(float(w.abs().max()) == pytest.approx(0.95) for w in TASK.source.read("test"))


@pytest.mark.parametrize("method", [TruncatedSVD(rank=4), Quantization(bits=4)], ids=["svd", "rtn"])
def test_a_point_has_scores_with_their_errors(method):
    record = lowrank.measure_point(TASK, method, norm="diagonal")
    for name in ("log_mel_l1", "mcd", "loss", "log_mel_to_dense"):
        assert np.isfinite(record["compressed"][name])
        assert record["standard_errors"]["compressed"][name] > 0
    assert record["compressed"]["log_mel_to_dense"] > 0


def test_training_comes_nearer_to_the_recordings():
    model = TASK.model()
    before = evaluate(model, TASK).metrics["log_mel_l1"]
    Training(epochs=8, learning_rate=0.003, batch_size=4).train(model, TASK)
    assert evaluate(model, TASK).metrics["log_mel_l1"] < 0.8 * before


def test_a_clip_is_written_as_sound(tmp_path):
    model = TASK.model()
    [path] = TASK.write_example(model, 1, tmp_path / "sounds" / "a.b-dense")
    assert path.name == "a.b-dense.wav"
    wave, rate = soundfile.read(path, dtype="float32")
    with torch.no_grad():
        expected = model(TASK.split("test").batch(torch.tensor([1])).only)[0, 0]
    assert rate == RATE and np.abs(wave - expected.numpy()).max() < 2**-14
    with pytest.raises(ValueError, match="row=5 must be in 0..4"):
        TASK.write_example(model, 5, tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("slow", "has 8000 samples a second and 1 channels; clips must have sampling_rate=4000"),
        ("silent", "row 0 of split 'test' .* the largest absolute value 0.0 has no loudness"),
        ("noise", "row 0 of split 'test' of dataset 'me/noise' cannot be decoded"),
    ],
)
def test_bad_clips_are_one_error(name, error):
    with pytest.raises(ValueError, match=error):
        HubSpeech(f"me/{name}", RATE).read("test")


def test_bad_options_are_one_error():
    with pytest.raises(ValueError, match="must be three splits that do not overlap"):
        HubSpeech("me/hums", RATE, whole="test")
    with pytest.raises(ValueError, match="peak=2 must be above 0 and at most 1"):
        HubSpeech("me/hums", RATE, peak=2)
    with pytest.raises(ValueError, match="no clip of split 'train' .* window=9000 samples"):
        replace(TASK, window=9000).split("train")
    with pytest.raises(ValueError, match="it must be .1, bands, frames. of 14 bands or more"):
        replace(TASK, feature_arguments=MELS | {"bands": 8}).split("test")
    short = TINY | {"upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4]}
    with pytest.raises(ValueError, match="not a waveform .1, 1, samples. of 250 frames"):
        replace(TASK, arguments=short).check()
    with pytest.raises(ValueError, match="does not take clips of shape .1, 16, 250."):
        replace(TASK, arguments=TINY | {"num_mels": 20}).check()


@pytest.mark.skipif(not REAL_HUB, reason="LOWRANK_HUB is not set")
def test_the_published_vocoder_speaks_like_the_recordings(monkeypatch):
    monkeypatch.setenv("LOWRANK_HUB", REAL_HUB)
    task = Vocoding(
        name=None,
        architecture="hifigan_v2",
        source=HubSpeech(
            "keithito/lj_speech", 22_050, 0.95, "train[16:]", "train[14:16]", "train[:14]", "train"
        ),
        features="lowrank.tasks.spectrograms:vocoder_mels",
        builder="lowrank.tasks.networks.hifigan:HiFiGANGenerator",
        weights=Published("jik876/hifigan-lj-v2"),
    )
    whole = task.whole_test()
    assert whole is not None and len(whole) == 24 and len(task.split("test")) == 14
    found = evaluate(task.model(), task, whole).metrics
    assert (round(found["log_mel_l1"], 4), round(found["mcd"], 3)) == (0.3168, 1.638)
