"""Dense models and their measures, which the points of one task share."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lowrank.compression.kernel_cache import code_of
from lowrank.measure.macs import layer_macs
from lowrank.model.copying import copied
from lowrank.numerics.memo import unchanging
from lowrank.point.measure import Measured, measure
from lowrank.point.quality import evaluate
from lowrank.point.settings import MeasureSettings
from lowrank.recovery import Recovery
from lowrank.tasks import Task
from lowrank.tasks.training import resuming

Settings = Mapping[str, Any]
# The settings on which the dense model's measures depend.
BASELINE = ("task", "recovery", "measure", "seed", "threads")


@dataclass(frozen=True)
class Baseline:
    """The measured dense model with which a compressed one is compared.

    Attributes:
        measured: its measures; after the recovery, if that changes the dense model too.
        fields: fields of the record: "dense_before_recovery", if there is such a recovery, with
            "dense_moved", how far the model is from what it was before it, and "dense_whole_test",
            if validation is a part of the test data; see `Task.whole_test`.
    """

    measured: Measured
    fields: dict[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A task as configured for its dense model; two are equal if their configurations are.

    Attributes:
        text: the configuration (JSON).
        classes: of the task and its parts: in a notebook, a class may be defined anew.
    """

    text: str
    classes: tuple[type, ...] = field(repr=False)
    task: Task = field(compare=False, repr=False)


@dataclass(frozen=True)
class Question:
    """A dense model and the way to measure it; two questions are equal if their texts are.

    Attributes:
        text: the settings on which its measures depend (JSON).
        drawn: the task whose model it is.
        task: the task on which it is recovered.
        recovery: None if the dense model is not recovered.
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

    It does not depend on the recovery, nor on a seed that only the recovery uses, unless the dense
    model is recovered too.

    Args:
        config: the config of the point, with the fields `BASELINE`.
    """
    own = {name: config[name] for name in BASELINE}
    seeded = with_seed(config["task"], config["task"]["seed"] if task.draws_model else 0)
    drawn = Drawn(text(seeded), tuple(_classes(task)), _with_seeds_of(task, seeded))
    without = text(own | {"task": seeded, "recovery": None, "seed": seeded["seed"]})
    if recovery.changes_dense:
        return Question(text(own), drawn, task, measure, recovery, without)
    return Question(without, drawn, drawn.task, measure, None, without)


# Points with the same dense model follow each other, and two large models may not fit into memory.
@functools.lru_cache(maxsize=1)
def dense_model(drawn: Drawn) -> nn.Module:
    """The trained dense model of a task; it is shared and must not be changed."""
    model = drawn.task.model()
    code = code_of({*drawn.classes, *(type(module) for module in model.modules())})
    return unchanging(model, None if code is None else f"{drawn.text} {code}")


@functools.lru_cache(maxsize=1)
def dense_macs(drawn: Drawn) -> Mapping[str, int]:
    """The MACs of its modules on one example; see `lowrank.measure.layer_macs`.

    Raises:
        ValueError: the model does not run on an example of its task.
    """
    return layer_macs(dense_model(drawn), drawn.task.example(1))


# Without a recovery and with it.
@functools.lru_cache(maxsize=2)
def dense_baseline(of: Question) -> Baseline:
    """The measured dense model."""
    counted, fields = dense_macs(of.drawn), {}
    if of.recovery is None:
        measured = measure(dense_model(of.drawn), of.drawn.task, of.measure, counted=counted)
    else:
        plain = dataclasses.replace(of, text=of.without, recovery=None)
        before = dense_baseline(plain).measured
        recovered = copied(before.model).model
        with resuming.named("dense"):
            of.recovery.recover(recovered, of.task)
        measured, moved = _apart(measure(recovered, of.task, of.measure, before, counted))
        fields = {"dense_before_recovery": before.values, "dense_moved": moved}
    whole = of.task.whole_test()
    if whole is not None:
        size = of.measure.of(of.task).batch_size
        fields["dense_whole_test"] = evaluate(measured.model, of.task, whole, size).metrics
    return Baseline(measured, fields)


def _apart(recovered: Measured) -> tuple[Measured, dict[str, float]]:
    """A recovered dense model without its distances from the model before, and these.

    Compressed models are compared with the recovered one. Its distance from the model before is
    another than theirs from it, and by the same name would be subtracted from them.
    """
    names = {metric.name for metric in recovered.metrics if metric.dense is not None}
    values, examples = recovered.values, recovered.examples
    own = {name: value for name, value in values.items() if name not in names}
    moved = {name: value for name, value in values.items() if name in names}
    of_each = {name: each for name, each in examples.values.items() if name not in names}
    examples = dataclasses.replace(examples, values=of_each)
    return dataclasses.replace(recovered, values=own, examples=examples), moved


# Its outputs may be large, so only those of the dense model in use are kept.
@functools.lru_cache(maxsize=1)
def dense_validation(of: Question) -> Iterable[Any]:
    """The outputs of the dense model on the validation split, as `evaluate` takes a reference."""
    size = of.measure.of(of.task).batch_size
    return evaluate(dense_baseline(of).measured.model, of.task, "validation", size).outputs


def _classes(value: Any) -> Iterator[type]:
    """Of a dataclass and of those in its fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        for one in dataclasses.fields(value):
            yield from _classes(getattr(value, one.name))


def with_seed(task: Settings, seed: int) -> dict[str, Any]:
    """The settings of a task with one seed for all its draws; a calibration split without a seed is
    not drawn.
    """
    drawn = {"calibration_seed": seed} if task.get("calibration_seed") is not None else {}
    return {**task, "seed": seed, **drawn}


def text(config: Any) -> str:
    """`config` as text, the key of a cache."""
    return json.dumps(config, sort_keys=True)


def _with_seeds_of(task: Task, config: Settings) -> Task:
    """A task with the seeds of a config; the task itself if it has these seeds."""
    names = [name for name in ("seed", "calibration_seed") if name in config]
    seeds = {name: config[name] for name in names if getattr(task, name) != config[name]}
    return dataclasses.replace(task, **seeds) if seeds else task  # type: ignore[type-var]
