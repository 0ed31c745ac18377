"""Classifiers of clips: what is read, what is measured, and the published keyword network."""

import io
import os
from dataclasses import replace

import mirrors
import numpy as np
import pytest
import soundfile
import text_mirror
import torch
from datasets import ClassLabel, Dataset, Features, Value

import lowrank
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import AudioClassification, HubClips, Published, Trained, Training
from lowrank.tasks.spectrograms import keyword_mels

REAL_HUB = os.environ.get("LOWRANK_HUB", "")
RATE, SAMPLES = 8000, 2048
TASK = AudioClassification(
    name="tones",
    architecture="mlp",
    source=HubClips("me/tones", RATE, SAMPLES),
    features=f"{__name__}:spectrum",
    builder="lowrank.tasks.networks.multilayer:mlp",
    arguments={"widths": [33 * 16, 16, 3]},
    weights=Trained(Training(epochs=8, learning_rate=0.01, batch_size=16)),
    validation_size=12,
)


def spectrum(waves):
    """Magnitudes (batch, frequencies, frames)."""
    return torch.stft(waves, 64, 136, window=torch.ones(64), return_complex=True).abs()


def flac(wave, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="FLAC")
    return {"bytes": file.getvalue(), "path": None}


def clips(count, seed):
    """Tones of three pitches in noise, some of them shorter."""
    random, rows = np.random.default_rng(seed), {"audio": [], "label": []}
    for _ in range(count):
        label, length = int(random.integers(3)), int(random.integers(SAMPLES // 2, SAMPLES + 1))
        tone = np.sin(2 * np.pi * (500, 1100, 2300)[label] * np.arange(length) / RATE)
        rows["audio"].append(flac(0.3 * tone + 0.1 * random.standard_normal(length)))
        rows["label"].append(label)
    return rows


def save(folder, **splits):
    names = ClassLabel(names=["low", "middle", "high"])
    for split, rows in splits.items():
        label = names if max(rows["label"]) < 3 else Value("int64")
        # Encoding by `Audio` needs torchcodec.
        sound = {"bytes": Value("binary"), "path": Value("string")}
        features = Features(audio=sound, label=label)
        place = folder / "data"
        place.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows, features).to_parquet(place / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    data = folder / "datasets" / "me"
    save(data / "tones", train=clips(90, 1), test=clips(40, 2))
    save(data / "long", test={"audio": [flac(np.zeros(SAMPLES + 1))], "label": [0]})
    save(data / "slow", test={"audio": [flac(np.zeros(SAMPLES), 4000)], "label": [0]})
    save(data / "stereo", test={"audio": [flac(np.zeros((SAMPLES, 2)))], "label": [0]})
    save(data / "noise", test={"audio": [{"bytes": b"no sound", "path": None}], "label": [0]})
    return folder


@pytest.fixture(autouse=True)
def mirror(hub, monkeypatch):
    mirrors.use(hub, monkeypatch)


def test_clips_are_those_of_the_files_with_zeros_at_their_end():
    found, rows = TASK.source.read("test"), clips(40, 2)
    assert found.waves.shape == (40, SAMPLES) and found.classes == 3
    for wave, label, sound, right in zip(
        found.waves, found.labels, rows["audio"], rows["label"], strict=True
    ):
        read, _ = soundfile.read(io.BytesIO(sound["bytes"]), dtype="float32")
        assert torch.equal(wave[: len(read)], torch.from_numpy(read))
        assert not wave[len(read) :].any() and int(label) == right


def test_a_network_learns_them_and_is_compressed():
    assert evaluate(TASK.model(), TASK).metrics["top1"] > 0.9
    for method in (TruncatedSVD(rank=2), Quantization(bits=4)):
        record = lowrank.measure_point(TASK, method, norm="diagonal")
        assert record["compressed"]["kl"] > 0
        assert record["standard_errors"]["dense"]["top1"] >= 0


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("long", "row 0 of dataset 'me/long' has 2049 samples; clips must have 1..2048"),
        ("slow", "has 4000 samples a second and 1 channels; clips must have sampling_rate=8000"),
        ("stereo", "has 8000 samples a second and 2 channels"),
        ("noise", "row 0 of dataset 'me/noise' cannot be decoded"),
    ],
)
def test_bad_clips_are_one_error(name, error):
    with pytest.raises(ValueError, match=error):
        HubClips(f"me/{name}", RATE, SAMPLES).read("test")


def test_bad_options_are_one_error(hub):
    with pytest.raises(ValueError, match="has no column 'sound'"):
        replace(TASK.source, audio="sound").read("test")
    with pytest.raises(ValueError, match="must not overlap"):
        HubClips("me/tones", RATE, SAMPLES, train="test")
    with pytest.raises(ValueError, match="cannot be imported"):
        replace(TASK, features="no_such:f").split("test")
    with pytest.raises(ValueError, match="does not take clips of shape"):
        replace(TASK, arguments={"widths": [5, 3]}).check()
    hidden = clips(4, 3) | {"label": [0, 1, -1, 2]}
    text_mirror.save_rows(hub / "datasets" / "me" / "hidden", test=hidden)
    with pytest.raises(ValueError, match="must hold class numbers from 0"):
        HubClips("me/hidden", RATE, SAMPLES).read("test")


@pytest.mark.skipif(not REAL_HUB, reason="LOWRANK_HUB is not set")
def test_the_published_network_hears_the_words(monkeypatch):
    monkeypatch.setenv("LOWRANK_HUB", REAL_HUB)
    task = AudioClassification(
        name=None,
        architecture="bc_resnet_2",
        source=HubClips("google/speech_commands", 16_000, 16_000, train="calibration"),
        features=f"{keyword_mels.__module__}:keyword_mels",
        builder="lowrank.tasks.networks.bc_resnet:BCResNet",
        arguments={"num_classes": 35},
        weights=Published("re9ulus/bc-resnet-2"),
        validation_size=96,
        validation_from="test",
    )
    whole = task.whole_test()
    assert whole is not None and len(whole) == 385
    model = task.model()
    assert evaluate(model, task, whole).metrics["top1"] == pytest.approx(364 / 385, abs=1e-6)
    small = lowrank.compress(model, Quantization(bits=8)).model
    assert evaluate(small, task, whole).metrics["top1"] == pytest.approx(364 / 385, abs=0.01)
