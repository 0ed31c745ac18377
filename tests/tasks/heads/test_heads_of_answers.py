"""Questions whose answers are parts of a context: what counts, what is judged, trained heads."""

import os
from dataclasses import replace

import head_mirror
import numpy as np
import pytest
import text_mirror
import torch
from text_mirror import NEUTRAL, POSITIVE
from torchmetrics.text import SQuAD
from transformers import BertForQuestionAnswering, BertModel

import lowrank
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import (
    AnswerTargets,
    HubRows,
    QuestionInputs,
    TextInputs,
    TrainedHead,
    Training,
    TransformersTask,
    hub,
)
from lowrank.tasks.heads.answer_targets import Answer, tokens_of

REAL_HUB = os.environ.get("LOWRANK_HUB", "")
TASK = TransformersTask(
    name="answers",
    architecture="bert",
    pretrained="me/spans",
    auto="AutoModelForQuestionAnswering",
    test=HubRows("me/questions", "test"),
    train=HubRows("me/questions", "train"),
    inputs=QuestionInputs(max_length=24),
    targets=AnswerTargets(longest=4),
    validation_size=10,
    calibration_size=12,
)
HEAD = TrainedHead("qa_outputs", Training(epochs=6, learning_rate=0.01, batch_size=8))


def questions(count, seed):
    """Contexts of neutral words with one or two positive ones in a row, the answer."""
    random = np.random.default_rng(seed)
    found = {"question": [], "context": [], "answers": []}
    for _ in range(count):
        words = [str(word) for word in random.choice(NEUTRAL, int(random.integers(4, 12)))]
        place = int(random.integers(len(words)))
        text = " ".join(map(str, random.choice(POSITIVE, int(random.integers(1, 3)))))
        words.insert(place, text)
        context = " ".join(words)
        start = len(" ".join(words[:place])) + (place > 0)
        found["question"].append(str(random.choice(NEUTRAL)))
        found["context"].append(context)
        found["answers"].append({"text": [text], "answer_start": [start]})
    return found


def wrong(**answers):
    """A question with such answers."""
    return {"question": ["film"], "context": ["a good film"], "answers": [answers]}


@pytest.fixture(scope="module", name="hub")
def mirrored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    config, tokenizer = head_mirror.bert_config(), head_mirror.masked_tokenizer()
    models, data = folder / "models" / "me", folder / "datasets" / "me"
    text_mirror.save(models / "spans", BertForQuestionAnswering, config, tokenizer)
    text_mirror.save(models / "base", BertModel, config, tokenizer)
    save = text_mirror.save_rows
    save(data / "questions", train=questions(90, 1), test=questions(24, 2))
    save(data / "elsewhere", test=wrong(text=["good"], answer_start=[3]))
    save(data / "none", test=wrong(text=[], answer_start=[]))
    save(data / "plain", test={"question": ["film"], "context": ["a film"], "answers": ["film"]})
    return folder


def test_scores_are_squads_of_the_best_spans():
    model, judge, texts = TASK.model(), SQuAD(), []
    test = TASK.split("test")
    for row in range(len(test)):  # One by one, hence without padding.
        batch = test.batch(torch.tensor([row]))
        with torch.no_grad():
            first, last = TASK.forward(model, batch)
        [offsets], [answer], best = batch.targets.offsets, batch.targets.answers, None
        for start in range(len(offsets)):
            for end in range(start, min(start + 4, len(offsets))):
                if offsets[start, 0] >= 0 and offsets[end, 0] >= 0:
                    score = float(first[0, start] + last[0, end])
                    best = max(best or (score, start, end), (score, start, end))
        text = answer.context[int(offsets[best[1], 0]) : int(offsets[best[2], 1])]
        texts.append(text)
        right = {"text": answer.texts, "answer_start": answer.starts}
        judge.update([{"prediction_text": text, "id": "0"}], [{"answers": right, "id": "0"}])
    found = evaluate(model, TASK, batch_size=5).metrics
    assert len(set(texts)) > 10
    for name, value in judge.compute().items():
        assert found[name] == pytest.approx(float(value) / 100, abs=1e-6)
    assert found["f1"] > found["exact_match"]


def test_the_loss_is_the_models_own():
    model, batch = TASK.model(), TASK.split("test").batch(torch.tensor([3]))
    with torch.no_grad():
        own = model(
            **batch.inputs, start_positions=batch.targets.first, end_positions=batch.targets.last
        ).loss
        ours = TASK.loss(TASK.forward(model, batch), batch.targets)
    assert float(ours) == pytest.approx(float(own), rel=1e-5)


def test_the_right_tokens_are_those_of_the_answer():
    test = TASK.split("test")
    batch = test.batch(torch.arange(len(test)))
    for row, answer in enumerate(batch.targets.answers):
        ends = (int(batch.targets.first[row]), int(batch.targets.last[row]))
        places = batch.targets.offsets[row, list(ends)]
        assert answer.context[places[0, 0] : places[1, 1]] == answer.texts[0]


def test_an_answer_that_is_cut_off_is_the_first_token():
    offsets = torch.tensor([[-1, -1], [-1, -1], [0, 1], [2, 6]])
    assert tokens_of(Answer("a good film", ["good"], [2]), offsets) == (3, 3)
    assert tokens_of(Answer("a good film", ["a good"], [0]), offsets) == (2, 3)
    assert tokens_of(Answer("a good film", ["good film"], [2]), offsets) == (0, 0)
    assert tokens_of(Answer("a good film", ["film"], [7]), offsets) == (0, 0)


def test_points_have_scores_with_their_errors():
    task = replace(TASK, pretrained="me/base", head=HEAD)
    for method in (TruncatedSVD(rank=10), Quantization(bits=4)):
        record = lowrank.measure_point(task, method, norm="diagonal")
        for name in ("f1", "loss", "kl"):
            assert np.isfinite(record["compressed"][name])
            assert record["standard_errors"]["compressed"][name] > 0
        assert next(iter(record["metrics"]))["name"] == "f1"


def test_a_head_that_is_missing_is_trained_once(monkeypatch):
    task = replace(TASK, pretrained="me/base", head=HEAD)
    assert task.draws_model and not TASK.draws_model
    model = task.model()
    assert evaluate(model, task).metrics["f1"] > 0.7
    monkeypatch.setattr(Training, "train", None)  # Kept, so not trained again.
    again = task.model()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("elsewhere", "column 'answers' in row 0: the answer 'good' is not at letter 3"),
        ("none", "column 'answers' in row 0 has 0 answers and 0 places"),
        ("plain", "column 'answers' in row 0 must hold lists `text` and `answer_start`"),
    ],
)
def test_bad_answers_are_one_error(name, error):
    with pytest.raises(ValueError, match=error):
        replace(TASK, test=HubRows(f"me/{name}", "test")).split("test")


def test_bad_options_are_one_error():
    with pytest.raises(ValueError, match="no column 'asked'"):
        replace(TASK, inputs=QuestionInputs("asked", max_length=24)).split("test")
    with pytest.raises(ValueError, match="more than the 32 positions"):
        replace(TASK, inputs=QuestionInputs(max_length=64)).split("test")
    with pytest.raises(ValueError, match="take inputs=QuestionInputs"):
        task = replace(TASK, inputs=TextInputs("question", pair="context", max_length=24))
        task.split("test").batch(torch.arange(2))
    with pytest.raises(ValueError, match="lacks 2 weights .* qa_outputs.bias"):
        replace(TASK, pretrained="me/base").model()
    with pytest.raises(ValueError, match="lacks 2 weights"):
        replace(TASK, pretrained="me/base", head=replace(HEAD, part="classifier")).model()
    with pytest.raises(ValueError, match="head=3 must be a TrainedHead"):
        replace(TASK, head=3)
    with pytest.raises(ValueError, match="longest=0"):
        AnswerTargets(longest=0)


@pytest.mark.skipif(not REAL_HUB, reason="LOWRANK_HUB is not set")
def test_the_parts_of_xquad_share_no_article(monkeypatch):
    """Each article has five paragraphs in a row."""
    monkeypatch.setenv("LOWRANK_HUB", REAL_HUB)
    rows = hub.load_split("google/xquad", "validation", "xquad.en", None)
    paragraphs, ends = [], []
    for number, context in enumerate(rows["context"]):
        if not paragraphs or paragraphs[-1] != context:
            ends += [number] if len(paragraphs) % 5 == 0 else []
            paragraphs.append(context)
    assert len(rows) == 1190 and len(paragraphs) == len(set(paragraphs)) == 240
    assert {826, 925} <= set(ends)
