"""Models of transformers that speak texts: their frames, their loss, bad recordings."""

from dataclasses import replace

import head_mirror
import numpy as np
import pytest
import text_mirror
import torch
from datasets import Audio, Dataset
from transformers import (
    SpeechT5Config,
    SpeechT5FeatureExtractor,
    SpeechT5ForTextToSpeech,
    Wav2Vec2FeatureExtractor,
)

import lowrank
from lowrank.calibration.collect import collect
from lowrank.calibration.data import TaskData
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import HubRows, SpectrogramTargets, TextInputs, Training, TransformersTask

TASK = TransformersTask(
    name="tones",
    architecture="speecht5",
    pretrained="me/voice",
    auto="AutoModelForTextToSpectrogram",
    test=HubRows("me/spoken", "test"),
    train=HubRows("me/spoken", "train"),
    inputs=TextInputs(),
    targets=SpectrogramTargets(speaker="voice"),
    validation_size=3,
    calibration_size=6,
)


def rows(count, seed, rate=16_000):
    """One to three words, each a tone."""
    random = np.random.default_rng(seed)
    words = (*text_mirror.POSITIVE, *text_mirror.NEGATIVE)
    texts = [" ".join(random.choice(words, random.integers(1, 4))) for _ in range(count)]
    return {
        "audio": head_mirror.tones(texts, rate, seconds=0.1),
        "text": texts,
        "voice": random.standard_normal((count, 4)).tolist(),
    }


def write(folder, **splits):
    folder.mkdir(parents=True)
    for name, columns in splits.items():
        data = Dataset.from_dict(columns).cast_column("audio", Audio(decode=False))
        data.to_parquet(str(folder / f"{name}.parquet"))


def config():
    return SpeechT5Config(
        vocab_size=len(text_mirror.word_tokenizer()),
        hidden_size=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=24,
        num_mel_bins=20,
        speech_decoder_prenet_units=16,
        speech_decoder_postnet_layers=2,
        speech_decoder_postnet_units=16,
        speaker_embedding_dim=4,
        reduction_factor=2,
        encoder_layerdrop=0.0,  # Of one layer nothing would be left.
        decoder_layerdrop=0.0,
        initializer_range=0.3,
    )


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    models, data = folder / "models" / "me", folder / "datasets" / "me"
    extractor, words = SpeechT5FeatureExtractor(num_mel_bins=20), text_mirror.word_tokenizer()
    text_mirror.save(models / "voice", SpeechT5ForTextToSpeech, config(), extractor, words)
    text_mirror.save(models / "bare", SpeechT5ForTextToSpeech, config(), words)
    other = Wav2Vec2FeatureExtractor()
    text_mirror.save(models / "other", SpeechT5ForTextToSpeech, config(), other, words)
    write(data / "spoken", train=rows(16, 1), test=rows(7, 2))
    write(data / "slow", test=rows(2, 3, rate=8_000))
    write(data / "voices", test=rows(2, 3) | {"voice": [[0.0] * 4, [0.0] * 3]})
    write(data / "holes", test=rows(2, 3) | {"voice": [[0.0] * 4, [0.0, None, 0.0, 0.0]]})
    write(data / "short", test=rows(1, 3) | {"audio": head_mirror.tones(["a"], seconds=0.01)})
    write(data / "damaged", test=rows(1, 7) | {"audio": [{"bytes": b"no sound", "path": None}]})
    return folder


def test_the_loss_is_the_models_own_of_the_frames_that_it_shifts_itself():
    model, batch = TASK.model(), head_mirror.whole(TASK)
    mels, real = batch.targets
    assert mels.shape[1] % 2 == 0 and not real.all()
    inputs = {name: one for name, one in batch.inputs.items() if "decoder" not in name}
    labels = mels.masked_fill(~real[..., None], -100.0)
    torch.manual_seed(0)
    with torch.no_grad():
        mask = batch.inputs["decoder_attention_mask"].repeat_interleave(2, dim=1)
        own = model(**inputs, labels=labels, decoder_attention_mask=mask)
        ours = TASK.forward(model, batch)
    torch.testing.assert_close(ours.mels, own.spectrogram)
    assert float(TASK.loss(ours, batch.targets)) == pytest.approx(float(own.loss), rel=1e-6)


def test_quality_is_the_mean_difference_of_real_frames():
    model, batch = TASK.model(), head_mirror.whole(TASK)
    mels, real = batch.targets
    with torch.no_grad():
        apart = (TASK.forward(model, batch).mels - mels)[real].abs().mean()
    found = evaluate(model, TASK, batch_size=7).metrics["log_mel_l1"]
    assert found == pytest.approx(float(apart), rel=1e-5)
    torch.rand(3)  # What is dropped by chance is the same again, whatever was drawn before.
    assert evaluate(model, TASK, batch_size=7).metrics["log_mel_l1"] == found


def test_calibration_counts_real_frames():
    layer = "speecht5.decoder.wrapped_decoder.layers.0.feed_forward.intermediate_dense"
    found = collect(TASK.model(), [layer], TaskData(TASK, 3), full=False)[layer]
    calibration = TASK.split("calibration")
    batch = calibration.batch(torch.arange(len(calibration)))
    assert batch.is_padded
    assert found.count == int(batch.real["decoder_input_values"].sum())


@pytest.mark.parametrize("method", [TruncatedSVD(rank=4), Quantization(bits=3)], ids=["svd", "rtn"])
def test_a_point_has_scores_with_their_errors(method):
    record = lowrank.measure_point(TASK, method, norm="diagonal")
    for metric in ("log_mel_l1", "log_mel_to_dense"):
        assert record["standard_errors"]["compressed"][metric] > 0
        assert record["compressed"][metric] > 0
    assert np.isfinite(record["compressed"]["loss"])


def test_training_learns():
    model = TASK.model()
    before = evaluate(model, TASK, "train").metrics["loss"]
    Training(epochs=4, learning_rate=0.005, batch_size=4).train(model, TASK)
    assert evaluate(model, TASK, "train").metrics["loss"] < before


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"test": HubRows("me/slow", "test")}, "has 8000 samples a second and 1 channels; model"),
        (
            {"test": HubRows("me/voices", "test")},
            "hold 4 numbers for each voice, .* row 1 has",
        ),
        ({"test": HubRows("me/holes", "test")}, r"4 numbers .* row 1 has \[0.0, None"),
        ({"test": HubRows("me/short", "test")}, "row 0 of column 'audio' fills no frame"),
        ({"test": HubRows("me/damaged", "test")}, "row 0 of column 'audio' cannot be decoded"),
        ({"targets": SpectrogramTargets("sound")}, "no column 'sound'"),
        ({"pretrained": "me/bare"}, "no feature extractor of 'me/bare'"),
        ({"pretrained": "me/other"}, "is no encoder of texts and decoder of frames"),
    ],
)
def test_bad_recordings_and_processors_are_one_error(changes, error):
    with pytest.raises(ValueError, match=error):
        head_mirror.whole(replace(TASK, **changes))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_inputs_are_of_the_dtype_of_the_weights(dtype):
    task = TASK
    half = replace(task, dtype=dtype)
    expected, found = (evaluate(one.model(), one).metrics["loss"] for one in (task, half))
    assert found == pytest.approx(expected, rel=0.05)
