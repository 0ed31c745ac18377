"""Points whose process was killed while it trained, and what a record says of a training."""

import json
from dataclasses import replace

import pytest
from digits_task import QUICK, TASK

from lowrank.decomposers import LoRA, MagnitudePruning, TruncatedSVD
from lowrank.point import measure_point
from lowrank.records import store
from lowrank.recovery import FineTune, Gradual, InOrder, Tune
from lowrank.tasks.training import resuming

RECIPE = FineTune(2, 3e-3, batch_size=256, patience=2)


class Stopped(BaseException):
    """The end of a process, in one."""


def without_times(record):
    return json.dumps({**record, "timings": None})


@pytest.fixture
def at_each_step(monkeypatch):
    """The state is written at each step, and not once a minute."""
    monkeypatch.setattr(resuming.resumable, "__defaults__", (0.0,))
    monkeypatch.setattr(resuming.resumable.__wrapped__, "__defaults__", (0.0,))


def stopping_after(recovery, count):
    """The recovery, which ends after so many epochs of the compressed model."""

    class Ending(type(recovery)):
        def change(self, compressed, task, progress=None):
            told = []

            def end(*said):
                told.append(said)
                if len(told) == count:
                    raise Stopped

            return super().change(compressed, task, end)

    return Ending(**{name: getattr(recovery, name) for name in recovery.__dataclass_fields__})


@pytest.mark.parametrize(
    "recovery", [RECIPE, Gradual(3, 3e-3, batch_size=256, renewals=2)], ids=["finetune", "gradual"]
)
def test_the_record_is_that_of_a_point_that_was_not_stopped(recovery, tmp_path, at_each_step):
    given = {"measure": QUICK, "config": None}
    whole = measure_point(TASK, MagnitudePruning(0.8), recovery=recovery, **given)
    config = whole["config"]
    ending = stopping_after(recovery, 2)
    with pytest.raises(Stopped):
        measure_point(
            *(TASK, MagnitudePruning(0.8)),
            recovery=ending,
            **given | {"config": config},
            checkpoint=tmp_path,
        )
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"{whole['key']}.training"
    assert {path.name.split("-")[0] for path in folder.iterdir()} >= {"training"}
    again = measure_point(
        *(TASK, MagnitudePruning(0.8)),
        recovery=recovery,
        **given | {"config": config},
        checkpoint=tmp_path,
    )
    assert without_times(again) == without_times(whole)
    store.save(again, tmp_path)
    assert not folder.exists() and store.exists(whole["key"], tmp_path)


def test_a_record_says_what_training_took(tmp_path):
    record = measure_point(TASK, LoRA(2, 4.0), recovery=RECIPE, measure=QUICK, checkpoint=tmp_path)
    found, protocol = record["recovered"], record["protocol"]
    assert protocol["chosen_on"] == {"recovery": "validation"}
    assert found["trained_params"] == 2 * (64 + 16 + 16 + 10) + 26
    assert found["optimizer_bytes"] == 8 * found["trained_params"] + 4 * 6
    assert found["epochs"] == 2 and len(found["validation"]["values"]) == 3
    best = found["validation"]["values"][found["best_epoch"]]
    assert best == pytest.approx(record["validation"]["top1"])
    assert record["timings"]["step_s"] > 0 and "step_s" not in found
    assert not list(tmp_path.iterdir())
    store.save(record, tmp_path)
    assert store.load(tmp_path)["timings.step_s"].item() == record["timings"]["step_s"]


def test_of_recoveries_in_order_each_has_its_time():
    order = InOrder([Tune(epochs=1), replace(RECIPE, patience=None)])
    record = measure_point(TASK, TruncatedSVD(4), recovery=order, measure=QUICK)
    assert len(record["timings"]["step_s"]) == 2 and min(record["timings"]["step_s"]) > 0
    assert all("step_s" not in step for step in record["recovered"]["steps"])
    assert all(step["optimizer_bytes"] > 0 for step in record["recovered"]["steps"])


def test_a_rate_without_effect_is_refused_before_the_dense_model_trains(monkeypatch):
    recipe, trained = replace(RECIPE, left_rate=16.0), []
    monkeypatch.setattr(FineTune, "recover", lambda *given: trained.append(given))
    with pytest.raises(ValueError, match="left_rate=16.0 has no effect"):
        measure_point(TASK, MagnitudePruning(0.5), recovery=recipe, measure=QUICK)
    assert not trained
