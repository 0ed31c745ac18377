"""Validation as a part of the test data, for weights that may have seen the train data."""

from dataclasses import replace

import mirrors
import pytest
import text_mirror
import torch
from digits_task import QUICK, TASK

from lowrank.decomposers import TruncatedSVD
from lowrank.point import evaluate, measure_point
from lowrank.tasks import CausalLM, HubText, Packing

IMAGES = replace(TASK, validation_size=60, validation_from="test")
WORDS = CausalLM(
    name="words",
    architecture="tiny",
    pretrained="me/tiny",
    test=HubText("me/words", "validation"),
    train=HubText("me/words", "train"),
    packing=Packing(32),
    calibration_size=5,
    validation_size=4,
    validation_from="test",
)
TASKS = {"images": IMAGES, "words": WORDS}
NAMES = ("train", "calibration", "validation", "test")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    text_mirror.save_llama(folder / "models" / "me" / "tiny", text_mirror.byte_tokenizer())
    texts = {"train": 30, "validation": 12}
    text_mirror.save_rows(
        folder / "datasets" / "me" / "words",
        **{name: {"text": text_mirror.rows(count, seed=count)} for name, count in texts.items()},
    )
    return folder


@pytest.fixture(params=TASKS.values(), ids=TASKS.keys())
def task(request, hub, monkeypatch):
    mirrors.use(hub, monkeypatch)
    return request.param


def contents(split):
    """Each example as text, in the order of the split."""
    return [str(one.only.tolist()) for one in split.batches(1)]


def test_the_test_data_are_parted_and_the_train_data_are_all_there(task):
    found = {name: contents(task.split(name)) for name in NAMES}
    usual = replace(task, validation_from="train")
    whole = contents(usual.split("test"))
    assert contents(task.whole_test()) == whole and usual.whole_test() is None
    assert sorted(found["test"] + found["validation"]) == sorted(whole)
    assert found["test"] == [one for one in whole if one in set(found["test"])]
    assert len(found["validation"]) == task.validation_size
    assert not set(found["test"]) & {*found["train"], *found["validation"]}
    assert set(found["calibration"]) <= set(found["train"])
    learnt = contents(usual.split("train")) + contents(usual.split("validation"))
    assert sorted(found["train"]) == sorted(learnt)


def test_the_split_seed_draws_it_and_no_other(task):
    drawn = contents(task.split("validation"))
    assert contents(replace(task, seed=5, calibration_seed=5).split("validation")) == drawn
    assert contents(replace(task, split_seed=5).split("validation")) != drawn


def test_a_record_says_so_and_has_the_dense_model_on_the_whole(task):
    record = measure_point(task, TruncatedSVD(rank=4), measure=QUICK)
    assert record["protocol"]["validation"] == task.validation_size
    assert record["protocol"]["test"] == len(task.whole_test()) - task.validation_size
    usual = replace(task, validation_from="train")
    batch_size = record["protocol"]["batch_size"]
    whole = evaluate(usual.model(), usual, batch_size=batch_size).metrics
    assert record["dense_whole_test"] == pytest.approx(whole)
    assert record["dense"]["loss"] != pytest.approx(whole["loss"], rel=1e-6)
    assert len(record.outcomes) == record["protocol"]["test"]
    parts = [record["dense"]["loss"], evaluate(task.model(), task, "validation").metrics["loss"]]
    sizes = torch.tensor([record["protocol"][name] for name in ("test", "validation")])
    together = float((torch.tensor(parts).double() * sizes).sum() / sizes.sum())
    assert together == pytest.approx(whole["loss"], rel=1e-6)
    assert "dense_whole_test" not in measure_point(usual, TruncatedSVD(rank=4), measure=QUICK)


def test_without_a_size_it_is_a_tenth(task):
    whole = len(task.whole_test())
    found = replace(task, validation_size=None)
    most = 1000 if task is IMAGES else 32
    assert len(found.split("validation")) == min(most, max(1, whole // 10))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"validation_from": "both"}, "validation_from='both' must be one of .'train', 'test'"),
        ({"validation_from": None}, "validation_from=None must be one of .'train', 'test'"),
        ({"validation_size": 10_000}, "validation_from=test leaves none of the .* to report"),
    ],
)
def test_what_cannot_be_is_refused(task, changes, says):
    with pytest.raises(ValueError, match=says):
        replace(task, **changes).check()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"validation_from": "train", "split_seed": 1}, "split_seed=1 has no effect with"),
        ({"packing": Packing(32, stride=8)}, "test inputs that do not overlap, and stride=8"),
    ],
)
def test_a_text_is_parted_into_inputs_that_share_nothing(changes, says):
    with pytest.raises(ValueError, match=says):
        replace(WORDS, **changes)
