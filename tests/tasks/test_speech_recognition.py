"""Strings of spoken words: how they are joined, what counts, and the digits of the mirror."""

import io
import os
from dataclasses import replace
from itertools import pairwise

import jiwer
import mirrors
import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Value

import lowrank
from lowrank.calibration.collect import collect
from lowrank.calibration.data import TaskData
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import HubSpokenWords, SpeechRecognition, Training
from lowrank.tasks.class_metrics import IGNORED
from lowrank.tasks.ctc import FrameScores, collapsed, ctc_losses
from lowrank.tasks.joined_clips import strings_of
from lowrank.tasks.networks.speech_convolutions import SpeechConvolutions
from lowrank.tasks.text_pairs import PairTargets

REAL_HUB = os.environ.get("LOWRANK_HUB", "")
RATE = 8000
TASK = SpeechRecognition(
    name="tones",
    architecture="convolutions",
    source=HubSpokenWords("me/tones", RATE),
    words=("low", "middle", "high"),
    features="lowrank.tasks.spectrograms:speech_mels",
    feature_arguments={"sampling_rate": RATE, "n_fft": 256, "hop": 80, "highest": 4000.0},
    builder="lowrank.tasks.networks.speech_convolutions:SpeechConvolutions",
    arguments={"bands": 40, "symbols": 4, "width": 16, "blocks": 1},
    weights=None,
    least=2,
    most=4,
    passes=3,
    validation_size=9,
    calibration_size=8,
)


def clips(count, seed, rate=RATE):
    """Tones of three pitches in noise, of two speakers and of several lengths."""
    random = np.random.default_rng(seed)
    rows = {"audio": [], "label": [], "speaker": []}
    for row in range(count):
        label, length = int(random.integers(3)), int(random.integers(rate // 5, rate // 3))
        tone = np.sin(2 * np.pi * (500, 1100, 2300)[label] * np.arange(length) / rate)
        tone *= np.hanning(length)
        file = io.BytesIO()
        noise = 0.01 * random.standard_normal(length)
        soundfile.write(file, 0.3 * tone + noise, rate, format="FLAC")
        rows["audio"].append({"bytes": file.getvalue(), "path": None})
        rows["label"].append(label)
        rows["speaker"].append("ab"[row % 2])
    return rows


def save(folder, **splits):
    sound = {"bytes": Value("binary"), "path": Value("string")}  # `Audio` needs torchcodec.
    features = Features(audio=sound, label=Value("int64"), speaker=Value("string"))
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        made = Dataset.from_dict(rows, features)
        made.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    data = folder / "datasets" / "me"
    save(data / "tones", train=clips(60, 1), test=clips(21, 2))
    save(data / "slow", test=clips(4, 3, rate=4000))
    save(data / "hidden", test=clips(4, 4) | {"label": [0, -1, 0, 0]})
    save(data / "few", test=clips(3, 5))
    return folder


@pytest.fixture(autouse=True)
def mirror(hub, monkeypatch):
    mirrors.use(hub, monkeypatch)


@pytest.mark.parametrize(("least", "most"), [(2, 3), (3, 7), (1, 1), (4, 8)])
def test_strings_have_each_clip_once_and_one_speaker(least, most):
    speakers = torch.tensor([0] * 23 + [1] * 8 + [2] * 40)
    strings = strings_of(speakers, least, most, seed=5)
    assert torch.cat(strings).sort().values.tolist() == list(range(71))
    assert {len(string) for string in strings} <= set(range(least, most + 1))
    assert all(len(speakers[string].unique()) == 1 for string in strings)
    thrice = torch.cat(strings_of(speakers, least, most, passes=3))
    assert torch.bincount(thrice).tolist() == [3] * 71


def test_no_clip_is_in_two_splits():
    seen = {
        name: {int(row) for string in TASK.split(name).strings for row in string}
        for name in ("train", "validation", "calibration")
    }
    assert not seen["train"] & seen["validation"]
    assert len(seen["validation"]) == 9 and len(seen["train"]) == 51
    assert seen["calibration"] <= seen["train"]


@pytest.mark.parametrize("length", [1, 4, 9])
def test_losses_are_the_sums_over_all_paths(length):
    """Of each way to spell the text in the frames, by the rule that repetitions are left out."""
    random = torch.Generator().manual_seed(length)
    logits = torch.randn(1, min(length + 1, 6), 3, generator=random)
    frames = logits.shape[1]
    wanted = [1, 1] if frames > 2 else [2]
    paths = torch.cartesian_prod(*[torch.arange(3)] * frames).reshape(-1, frames)
    log_p = F.log_softmax(logits[0].double(), dim=1)
    total = sum(
        float(log_p[torch.arange(frames), path].sum().exp())
        for path in paths
        if collapsed(path.tolist(), 0) == wanted
    )
    targets = PairTargets(torch.tensor([[*wanted, IGNORED]]), [""])
    given = ctc_losses(FrameScores(logits, torch.tensor([frames]), 0), targets)
    assert float(given[0]) == pytest.approx(-np.log(total) / len(wanted), rel=1e-5)


def test_a_text_for_which_there_are_too_few_frames_is_an_error():
    outputs = FrameScores(torch.zeros(1, 2, 3), torch.tensor([2]), 0)
    with pytest.raises(ValueError, match="'a a' needs 3 frames, and the model makes 2"):
        ctc_losses(outputs, PairTargets(torch.tensor([[1, 1]]), ["a a"]))


def test_a_string_has_the_same_scores_alone_and_beside_longer_ones():
    model, test = TASK.model(), TASK.split("test")
    whole = TASK.predict(model, test.batch(torch.arange(len(test))))
    for row in range(len(test)):
        alone = TASK.predict(model, test.batch(torch.tensor([row])))
        count = int(alone.frames)
        assert count == int(whole.frames[row]) == alone.logits.shape[1]
        torch.testing.assert_close(whole.logits[row, :count], alone.logits[0])
        assert whole.texts[row] == alone.texts[0]


def test_calibration_counts_the_real_frames():
    found = collect(TASK.model(), ["head"], TaskData(TASK, 4), full=False)["head"]
    calibration = TASK.split("calibration")
    batch = calibration.batch(torch.arange(len(calibration)))
    assert batch.is_padded and not found.notes
    assert found.count == int(TASK.forward(TASK.model(), batch).frames.sum())


def test_training_learns_the_words():
    model = TASK.model()
    Training(epochs=15, learning_rate=0.02, batch_size=8).train(model, TASK)
    found = evaluate(model, TASK, batch_size=3)
    test = TASK.split("test")
    outputs = TASK.predict(model, test.batch(torch.arange(len(test))))
    wanted = test.batch(torch.arange(len(test))).targets.texts
    assert found.metrics["wer"] == pytest.approx(jiwer.wer(wanted, outputs.texts), abs=1e-6)
    assert found.metrics["wer"] < 0.2


@pytest.mark.parametrize("method", [TruncatedSVD(rank=3), Quantization(bits=3)], ids=["svd", "rtn"])
def test_a_point_has_error_rates_with_their_errors(method):
    record = lowrank.measure_point(TASK, method, norm="diagonal")
    assert next(iter(record["metrics"]))["name"] == "wer"
    for name in ("wer", "cer", "loss", "kl", "flipped"):
        assert np.isfinite(record["compressed"][name])
        assert name in record["standard_errors"]["compressed"]
    assert record["compressed"]["kl"] > 0


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"source": HubSpokenWords("me/slow", RATE)}, "has 4000 samples a second"),
        ({"source": HubSpokenWords("me/hidden", RATE)}, "must hold class numbers from 0"),
        ({"source": HubSpokenWords("me/few", RATE)}, "speaker 1 has 1 clips, fewer than least=2"),
        ({"source": HubSpokenWords("me/tones", RATE, speaker="who")}, "has no column 'who'"),
        ({"words": ("low", "high")}, "have label 2, and there are 2 words from 0"),
        ({"most": 2}, "most=2 must be at least"),
    ],
)
def test_bad_clips_are_one_error(changes, error):
    with pytest.raises(ValueError, match=error):
        replace(TASK, **changes).split("test")


def test_bad_options_are_one_error():
    with pytest.raises(ValueError, match="words=.* must be texts that are not empty"):
        replace(TASK, words=["low", " "])
    with pytest.raises(ValueError, match="calibration_size=999 is more than the"):
        replace(TASK, calibration_size=999).split("calibration")
    arguments = {"bands": 40, "symbols": 7}
    with pytest.raises(ValueError, match=r"not scores \(2, frames, 4\), for a blank and 3 words"):
        replace(TASK, arguments=arguments).check()
    with pytest.raises(ValueError, match="does not take features of shape"):
        replace(TASK, arguments={"bands": 8, "symbols": 4}).check()


def test_padding_does_not_reach_a_network_in_training_mode_as_values():
    """Frames beyond the end are 0 before each convolution."""
    model = SpeechConvolutions(bands=4, symbols=3, width=8, blocks=1).eval()
    features, real = torch.randn(1, 9, 4), torch.ones(1, 9, dtype=torch.bool)
    longer = torch.cat([features, 100 * torch.ones(1, 7, 4)], dim=1)
    marked = torch.cat([real, torch.zeros(1, 7, dtype=torch.bool)], dim=1)
    (alone, count), (beside, same) = model(features, real), model(longer, marked)
    assert int(count) == int(same) == 3
    torch.testing.assert_close(beside[:, :3], alone)


@pytest.mark.skipif(not REAL_HUB, reason="LOWRANK_HUB is not set")
def test_strings_of_real_digits(monkeypatch):
    monkeypatch.setenv("LOWRANK_HUB", REAL_HUB)
    words = "zero one two three four five six seven eight nine".split()
    source = HubSpokenWords("Jakobovski/free-spoken-digit-dataset", RATE)
    task = replace(TASK, source=source, words=words, least=3, most=7, validation_size=180)
    test = task.split("test")
    assert sum(map(len, test.strings)) == 300
    ends = [(at, to) for string in test.strings for at, to in pairwise(string.tolist())]
    assert len(ends) == 300 - len(test)
