"""Models that write a text for a text: what counts, what is judged, and real translations."""

import os
from dataclasses import replace

import mirrors
import numpy as np
import pytest
import sacrebleu
import text_mirror
import torch

import lowrank
from lowrank.calibration.collect import collect
from lowrank.calibration.data import TaskData
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import HubText, TextToText, Training
from lowrank.tasks.class_metrics import IGNORED

REAL_HUB = os.environ.get("LOWRANK_HUB", "")
TASK = TextToText(
    name="films",
    architecture="tiny",
    pretrained="me/bart",
    test=HubText("me/pairs", "test", column="sentence"),
    train=HubText("me/pairs", "train", column="sentence"),
    target="wanted",
    max_length=16,
    max_written=16,
    validation_size=10,
    calibration_size=12,
)


def pairs(count, seed):
    """Sentences and their first words."""
    rows = text_mirror.sentences(count, 3, seed=seed)["sentence"]
    return {"sentence": rows, "wanted": [" ".join(row.split()[:3]) for row in rows]}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    text_mirror.save_bart(folder / "models" / "me" / "bart")
    text_mirror.save_bert(folder / "models" / "me" / "bert")
    text_mirror.save_rows(
        folder / "datasets" / "me" / "pairs",
        train=pairs(60, 1),
        validation=pairs(9, 3),
        test=pairs(20, 2),
    )
    empty = {"sentence": ["good", "bad"], "wanted": ["good", " "]}
    text_mirror.save_rows(folder / "datasets" / "me" / "empty", test=empty)
    return folder


@pytest.fixture(autouse=True)
def mirror(hub, monkeypatch):
    mirrors.use(hub, monkeypatch)


@pytest.fixture(scope="module")
def model(hub):
    with pytest.MonkeyPatch.context() as patch:
        mirrors.use(hub, patch)
        return TASK.model()


def test_scores_are_those_of_the_texts_that_generate_writes(model):
    found = evaluate(model, TASK, batch_size=3)
    test, tokenizer = TASK.split("test"), TASK.tokenizer
    written, wanted = [], []
    for row in range(len(test)):  # One by one, hence without padding.
        batch = test.batch(torch.tensor([row]))
        ids = model.generate(
            input_ids=batch.inputs["input_ids"], max_new_tokens=16, max_length=None, num_beams=1
        )
        written += tokenizer.batch_decode(ids, skip_special_tokens=True)
        wanted += batch.targets.texts
    assert len(set(written)) > 5
    bleu = sacrebleu.corpus_bleu(written, [wanted])
    assert found.metrics["bleu"] == pytest.approx(bleu.score / 100, abs=1e-6)


def test_beams_change_what_is_written(model):
    greedy, beams = (evaluate(model, replace(TASK, beams=n)).metrics for n in (1, 4))
    assert greedy["loss"] == pytest.approx(beams["loss"])
    assert greedy["chrf"] != beams["chrf"]


def test_the_loss_is_the_models_own(model):
    batch = TASK.split("test").batch(torch.arange(5))
    labels = batch.targets.ids
    with torch.no_grad():
        own = model(
            input_ids=batch.inputs["input_ids"],
            attention_mask=batch.inputs["attention_mask"],
            labels=labels,
        ).loss
        ours = TASK.loss(TASK.forward(model, batch), batch.targets)
    assert float(ours) == pytest.approx(float(own), rel=1e-5)
    assert TASK.predictions(batch).tolist() == (labels != IGNORED).sum(dim=1).tolist()


def test_calibration_counts_the_tokens_of_each_side(model):
    encoder, decoder = "model.encoder.layers.0.fc1", "model.decoder.layers.0.fc1"
    keys = "model.decoder.layers.0.encoder_attn.k_proj"
    found = collect(model, [encoder, decoder, keys], TaskData(TASK, 5), full=False)
    sources, targets = TASK.split("calibration").lengths.sum(dim=0).tolist()
    assert sources != targets
    assert found[encoder].count == found[keys].count == sources
    assert found[decoder].count == targets
    assert not found[decoder].notes


@pytest.mark.parametrize("method", [TruncatedSVD(rank=6), Quantization(bits=4)], ids=["svd", "rtn"])
def test_a_point_has_scores_with_their_errors(method):
    record = lowrank.measure_point(TASK, method, norm="diagonal")
    for name in ("bleu", "chrf", "loss", "kl"):
        assert np.isfinite(record["compressed"][name])
        assert record["standard_errors"]["compressed"][name] > 0
    assert next(iter(record["metrics"]))["name"] == "bleu"
    assert record["compressed"]["kl"] > 0


def test_training_learns_the_pairs(model):
    before = evaluate(model, TASK).metrics["loss"]
    trained = TASK.model()
    Training(epochs=3, learning_rate=0.01, batch_size=8).train(trained, TASK)
    assert evaluate(trained, TASK).metrics["loss"] < before


def test_a_validation_text_leaves_all_of_train():
    task = replace(
        TASK,
        validation=HubText("me/pairs", "validation", column="sentence"),
        validation_size=None,
    )
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [60, 9, 20]


def test_bad_pairs_are_one_error(hub):
    short = replace(TASK, max_written=3)
    with pytest.raises(ValueError, match="row 1 has 5 tokens, more than max_written=3"):
        short.split("test")
    empty = HubText("me/empty", "test", column="sentence")
    with pytest.raises(ValueError, match="the text in row 1 is empty"):
        replace(TASK, test=empty).split("test")
    with pytest.raises(ValueError, match="no column 'english'"):
        replace(TASK, target="english").split("test")
    with pytest.raises(ValueError, match="is of no effect beside validation"):
        replace(TASK, validation=empty)
    with pytest.raises(ValueError, match="no model for AutoModelForSeq2SeqLM of 'me/bert'"):
        replace(TASK, pretrained="me/bert").network()
    with pytest.raises(ValueError, match="more than the 32 positions"):
        replace(TASK, max_length=64, prefix="film " * 40).split("test")


@pytest.mark.skipif(not REAL_HUB, reason="LOWRANK_HUB is not set")
def test_real_translations(monkeypatch):
    monkeypatch.setenv("LOWRANK_HUB", REAL_HUB)
    task = TextToText(
        name=None,
        architecture="marian",
        pretrained="lowrank/multi30k-de-en",
        test=HubText("bentrevett/multi30k", "test", column="de"),
        train=HubText("bentrevett/multi30k", "train[:200]", column="de"),
        target="en",
        max_written=96,
    )
    found = evaluate(task.model(), task).metrics
    # Its README says BLEU 35.87, chrF 55.36 and a loss of 1.833 by greedy search.
    assert found["bleu"] == pytest.approx(0.3587, abs=5e-4)
    assert found["chrf"] == pytest.approx(0.5536, abs=5e-4)
    assert found["loss"] == pytest.approx(1.833, abs=5e-4)
