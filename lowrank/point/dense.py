"""The dense model that the points of one task share, and its measures."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lowrank.measure.macs import layer_macs
from lowrank.model.copying import copied
from lowrank.numerics.memo import unchanging
from lowrank.point.measure import Measured, measure
from lowrank.point.settings import MeasureSettings
from lowrank.recovery import Recovery
from lowrank.tasks import Task

Settings = Mapping[str, Any]
# What the dense model's measures depend on.
BASELINE = ("task", "recovery", "measure", "seed", "threads")


@dataclass(frozen=True)
class Baseline:
    """The dense model that a compressed one is set beside.

    Attributes:
        measured: after the recovery of the compressed model, if it changes the dense one too.
        before_recovery: the record's field "dense_before_recovery", if there is such a recovery.
    """

    measured: Measured
    before_recovery: dict[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A task as its dense model is drawn; two are the same where their configurations are.

    Attributes:
        text: the configuration (JSON).
        classes: of the task and its parts: in a notebook, a class may be defined anew.
    """

    text: str
    classes: tuple[type, ...] = field(repr=False)
    task: Task = field(compare=False, repr=False)


@dataclass(frozen=True)
class Question:
    """Which dense model is measured, and how; two are the same where their texts are.

    Attributes:
        text: the settings that its measures depend on (JSON).
        drawn: the task that it is the model of.
        task: the task that it is recovered on.
        recovery: None where the dense model gets none.
        without: the text of the question without a recovery.
    """

    text: str
    drawn: Drawn = field(repr=False)
    task: Task = field(compare=False, repr=False)
    measure: MeasureSettings = field(compare=False, repr=False)
    recovery: Recovery | None = field(compare=False, repr=False)
    without: str = field(compare=False, repr=False)


def question(
    config: Settings, task: Task, measure: MeasureSettings, recovery: Recovery
) -> Question:
    """The question for the dense model of a point.

    No recovery changes it, and no seed that only a recovery draws with, unless the dense model is
    recovered too.

    Args:
        config: of the point, with the fields `BASELINE`.
    """
    own = {name: config[name] for name in BASELINE}
    seeded = with_seed(config["task"], config["task"]["seed"] if task.draws_model else 0)
    drawn = Drawn(text(seeded), tuple(_classes(task)), _with_seeds_of(task, seeded))
    without = text(own | {"task": seeded, "recovery": None, "seed": seeded["seed"]})
    if recovery.changes_dense:
        return Question(text(own), drawn, task, measure, recovery, without)
    return Question(without, drawn, drawn.task, measure, None, without)


# The points of one dense model follow each other. Two large ones would not fit beside them.
@functools.lru_cache(maxsize=1)
def dense_model(drawn: Drawn) -> nn.Module:
    """The trained dense model of a task; not to be changed."""
    return unchanging(drawn.task.model())


@functools.lru_cache(maxsize=1)
def dense_macs(drawn: Drawn) -> Mapping[str, int]:
    """The MACs of its modules on one example; see `lowrank.measure.layer_macs`.

    Raises:
        ValueError: the model does not run on an example of its task.
    """
    return layer_macs(dense_model(drawn), drawn.task.example(1))


# As it is, and recovered.
@functools.lru_cache(maxsize=2)
def dense_baseline(of: Question) -> Baseline:
    """The measured dense model."""
    counted = dense_macs(of.drawn)
    if of.recovery is None:
        dense = dense_model(of.drawn)
        return Baseline(measure(dense, of.drawn.task, of.measure, counted=counted), {})
    plain = dataclasses.replace(of, text=of.without, recovery=None)
    before = dense_baseline(plain).measured
    recovered = copied(before.model).model
    of.recovery.recover(recovered, of.task)
    measured = measure(recovered, of.task, of.measure, before, counted)
    return Baseline(measured, {"dense_before_recovery": before.values})


def _classes(value: Any) -> Iterator[type]:
    """Of a dataclass and of those in its fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        for one in dataclasses.fields(value):
            yield from _classes(getattr(value, one.name))


def with_seed(task: Settings, seed: int) -> dict[str, Any]:
    """The settings of a task with one seed for all that it draws; what it does not draw stays."""
    drawn = {"calibration_seed": seed} if task.get("calibration_seed") is not None else {}
    return {**task, "seed": seed, **drawn}


def text(config: Any) -> str:
    """`config` as a key of a cache."""
    return json.dumps(config, sort_keys=True)


def _with_seeds_of(task: Task, config: Settings) -> Task:
    """A task with the seeds of a config; itself where it has them."""
    names = [name for name in ("seed", "calibration_seed") if name in config]
    seeds = {name: config[name] for name in names if getattr(task, name) != config[name]}
    return dataclasses.replace(task, **seeds) if seeds else task  # type: ignore[type-var]
