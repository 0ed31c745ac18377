"""Models of transformers for sounds: classes, texts from frames, and texts that are written."""

from dataclasses import replace

import head_mirror
import jiwer
import numpy as np
import pytest
import text_mirror
import torch
from datasets import Audio, Dataset
from transformers import (
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

import lowrank
from lowrank.calibration.collect import collect
from lowrank.calibration.data import TaskData
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import (
    AudioInputs,
    ClassTargets,
    HubRows,
    TextTargets,
    Training,
    TranscriptTargets,
    TransformersTask,
)
from lowrank.tasks.class_metrics import IGNORED

CLASSES = TransformersTask(
    name="first_words",
    architecture="wav2vec2",
    pretrained="me/classes",
    auto="AutoModelForAudioClassification",
    test=HubRows("me/sounds", "test"),
    train=HubRows("me/sounds", "train"),
    inputs=AudioInputs(),
    targets=ClassTargets(),
    validation_size=4,
    calibration_size=8,
)
SPELT = replace(
    CLASSES,
    name="spelt",
    pretrained="me/ctc",
    auto="AutoModelForCTC",
    targets=TranscriptTargets(),
)
WRITTEN = replace(
    CLASSES,
    name="written",
    architecture="whisper",
    pretrained="me/whisper",
    auto="AutoModelForSpeechSeq2Seq",
    targets=TextTargets("words", max_written=12),
)
TASKS = {"classes": CLASSES, "spelt": SPELT, "written": WRITTEN}


def rows(count, seed, rate=16_000):
    """One to four words said, of two, with the same number of other words to be written."""
    random = np.random.default_rng(seed)
    words = [random.integers(2, size=random.integers(1, 5)) for _ in range(count)]
    said = [" ".join(("ONE", "TWO")[word] for word in row) for row in words]
    other = (text_mirror.POSITIVE[0], text_mirror.NEGATIVE[0])
    return {
        "audio": head_mirror.tones(said, rate, seconds=0.02),
        "text": said,
        "words": [" ".join(other[word] for word in row) for row in words],
        "label": [int(row[0]) for row in words],
    }


def save(folder, **splits):
    folder.mkdir(parents=True)
    for name, columns in splits.items():
        # Encoding by `Audio` needs torchcodec.
        made = Dataset.from_dict(columns).cast_column("audio", Audio(decode=False))
        made.to_parquet(str(folder / f"{name}.parquet"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    models = folder / "models" / "me"
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    letters = head_mirror.letter_tokenizer(models / "ctc")
    config = head_mirror.wav2vec_config()
    text_mirror.save(models / "ctc", Wav2Vec2ForCTC, config, extractor, letters)
    text_mirror.save(models / "bare", Wav2Vec2ForCTC, config, letters)
    text_mirror.save(models / "classes", Wav2Vec2ForSequenceClassification, config, extractor)
    text_mirror.save(
        models / "whisper",
        WhisperForConditionalGeneration,
        head_mirror.whisper_config(),
        WhisperFeatureExtractor(feature_size=8, chunk_length=1),
        text_mirror.word_tokenizer(),
    )
    data = folder / "datasets" / "me"
    save(data / "sounds", train=rows(20, 1), test=rows(12, 2))
    save(data / "slow", test=rows(3, 3, rate=8_000))
    empty, small, long = rows(3, 4), rows(3, 5), rows(3, 6)
    empty["text"][1] = " "
    small["text"][2] = "one"
    long["text"][0] = "ONE " * 60
    long["words"][0] = "good " * 20
    empty["label"][2] = 2
    for name, made in (("empty", empty), ("small", small), ("long", long)):
        save(data / name, test=made)
    save(data / "damaged", test=rows(2, 7) | {"audio": [{"bytes": b"no sound", "path": None}] * 2})
    hour = rows(2, 8)
    hour["audio"] = head_mirror.tones(["ONE"] * 2, seconds=1.1)
    save(data / "hour", test=hour)
    return folder


def test_texts_are_those_of_each_sound_alone(hub):
    model, tokenizer = (
        SPELT.model(),
        Wav2Vec2CTCTokenizer.from_pretrained(hub / "models" / "me" / "ctc"),
    )
    test, written, wanted = SPELT.split("test"), [], []
    for row in range(len(test)):
        batch = test.batch(torch.tensor([row]))
        ids = model(input_values=batch.inputs["input_values"]).logits.argmax(dim=2)
        written += tokenizer.batch_decode(ids)
        wanted += batch.targets.texts
    outputs = SPELT.predict(model.eval(), head_mirror.whole(SPELT))
    assert outputs.texts == written and len(set(written)) > 1
    found = evaluate(model, SPELT, batch_size=5).metrics
    assert found["wer"] == pytest.approx(jiwer.wer(wanted, written), abs=1e-6)
    assert found["cer"] == pytest.approx(jiwer.cer(wanted, written), abs=1e-6)


def test_written_texts_are_those_of_generate():
    model, tokenizer = WRITTEN.model(), text_mirror.word_tokenizer()
    test, written, wanted = WRITTEN.split("test"), [], []
    for row in range(len(test)):
        batch = test.batch(torch.tensor([row]))
        features = batch.inputs["input_features"]
        ids = model.generate(input_features=features, max_new_tokens=12, max_length=None)
        written += tokenizer.batch_decode(ids, skip_special_tokens=True)
        wanted += batch.targets.texts
    found = evaluate(model, WRITTEN, batch_size=5).metrics
    assert found["wer"] == pytest.approx(jiwer.wer(wanted, written), abs=1e-6)


def test_the_loss_is_the_models_own():
    for task in (CLASSES, SPELT, WRITTEN):
        model, batch = task.model(), head_mirror.whole(task)
        labels = batch.targets if isinstance(batch.targets, torch.Tensor) else batch.targets.ids
        inputs = {name: one for name, one in batch.inputs.items() if "decoder" not in name}
        with torch.no_grad():
            own = model(**inputs, labels=labels).loss
            ours = task.loss(task.forward(model, batch), batch.targets)
        assert float(ours) == pytest.approx(float(own), rel=1e-5)


def test_calibration_counts_real_frames_and_tokens():
    layer = "wav2vec2.encoder.layers.0.feed_forward.intermediate_dense"
    found = collect(SPELT.model(), [layer], TaskData(SPELT, 4), full=False)[layer]
    calibration = SPELT.split("calibration")
    batch = calibration.batch(torch.arange(len(calibration)))
    assert batch.is_padded
    assert found.count == int(SPELT.forward(SPELT.model(), batch).frames.sum())
    layer = "model.decoder.layers.0.fc1"
    found = collect(WRITTEN.model(), [layer], TaskData(WRITTEN, 4), full=False)[layer]
    calibration = WRITTEN.split("calibration")
    batch = calibration.batch(torch.arange(len(calibration)))
    assert found.count == int((batch.targets.ids != IGNORED).sum()) and not found.notes


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("method", [TruncatedSVD(rank=6), Quantization(bits=3)], ids=["svd", "rtn"])
def test_a_point_has_scores_with_their_errors(name, method):
    record = lowrank.measure_point(TASKS[name], method, norm="diagonal")
    first = next(iter(record["metrics"]))["name"]
    for metric in (first, "loss", "kl"):
        assert np.isfinite(record["compressed"][metric])
        assert record["standard_errors"]["compressed"][metric] >= 0
    assert record["compressed"]["kl"] > 0


@pytest.mark.parametrize("name", TASKS)
def test_training_learns(name):
    task = TASKS[name]
    model = task.model()
    before = evaluate(model, task).metrics["loss"]
    Training(epochs=4, learning_rate=0.005, batch_size=4).train(model, task)
    assert evaluate(model, task).metrics["loss"] < before


@pytest.mark.parametrize(
    ("task", "data", "error"),
    [
        (CLASSES, "slow", "row 0 of column 'audio' has 8000 samples a second and 1 channels"),
        (CLASSES, "damaged", "row 0 of column 'audio' cannot be decoded"),
        (CLASSES, "empty", "column 'label' has the class 2"),
        (SPELT, "empty", "the text in row 1 is empty"),
        (SPELT, "small", "the text in row 2 of column 'text', 'one', has characters that the"),
        (SPELT, "long", "needs 240 frames, and the model makes"),
        (WRITTEN, "hour", "has 17600 samples; model 'me/whisper' takes 1..16000"),
        (WRITTEN, "long", "row 0 has 21 tokens, more than max_written=12"),
    ],
)
def test_bad_sounds_and_texts_are_one_error(task, data, error):
    task = replace(task, test=HubRows(f"me/{data}", "test"))
    with pytest.raises(ValueError, match=error):
        evaluate(task.model(), task)


def test_a_missing_processor_is_one_error():
    with pytest.raises(ValueError, match="no feature extractor of 'me/bare'"):
        replace(SPELT, pretrained="me/bare").check()
    with pytest.raises(ValueError, match="max_written=64 is more than the 16 positions"):
        replace(WRITTEN, targets=TextTargets("words", max_written=64)).check()
    with pytest.raises(ValueError, match="it is no encoder and decoder"):
        replace(SPELT, targets=TextTargets()).check()


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_inputs_are_of_the_dtype_of_the_weights(name, dtype):
    task = TASKS[name]
    half = replace(task, dtype=dtype)
    expected, found = (evaluate(one.model(), one).metrics["loss"] for one in (task, half))
    assert found == pytest.approx(expected, rel=0.05)
