"""The library's objects that the settings of a point name."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from lowrank.allocation import Allocation
from lowrank.calibration import NormProvider
from lowrank.model.select import Select
from lowrank.point import MeasureSettings
from lowrank.recovery import Recovery
from lowrank.tasks import Task

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Parts:
    """What a point is made of, as the library's objects."""

    task: Task
    allocation: Allocation
    where: Select
    norm: NormProvider
    recovery: Recovery
    measure: MeasureSettings


# What each part must be, whatever class of whoever's the settings name.
KINDS = {
    "allocation": Allocation,
    "where": Select,
    "norm": NormProvider,
    "recovery": Recovery,
    "measure": MeasureSettings,
}


def make_parts(settings: Settings) -> Parts:
    """The objects that the settings of a point name, with their own checks passed.

    Raises:
        InstantiationException: caused by the error of one of them.
        ValueError: one is not what it has to be.
    """
    made = {name: make(settings[name]) for name in KINDS}
    for name, kind in KINDS.items():
        _check_kind(name, made[name], kind)
    return Parts(task=shared_task(text(settings["task"])), **made)


# The points of a sweep share these. They come in an order in which few are needed at a time, and
# many seeds must not fill the memory.
@functools.lru_cache(maxsize=4)
def shared_task(config: str) -> Task:
    """The task of a configuration (JSON), with its data decoded once."""
    task = make(json.loads(config))
    _check_kind("task", task, Task)
    return task


def make(config: Mapping[str, Any]) -> Any:
    """The object that `config` names by its `_target_`."""
    return instantiate(config, _convert_="all")


def with_seed(task: Settings, seed: int) -> Settings:
    """The settings of a task with one seed for all that it draws; what it does not draw stays."""
    drawn = {"calibration_seed": seed} if task.get("calibration_seed") is not None else {}
    return {**task, "seed": seed, **drawn}


def text(config: Any) -> str:
    """`config` as a key of a cache."""
    return json.dumps(config, sort_keys=True)


def _check_kind(name: str, made: object, kind: type) -> None:
    if not isinstance(made, kind):
        raise ValueError(
            f"{name} must be a {kind.__name__}, and is a {type(made).__name__}: {made!r:.80}"
        )


def reason(error: Exception) -> str:
    """The text of an error for people; behind Hydra's wrapping, that of its cause."""
    found = cause(error)
    return str(found) if stands_alone(found) else f"{type(found).__name__}: {found}"


def cause(error: Exception) -> BaseException:
    """What Hydra wrapped, or the error itself."""
    wrapped = error.__cause__ if isinstance(error, InstantiationException) else None
    return wrapped or error


def stands_alone(error: BaseException) -> bool:
    """Whether the text of an error says all, as ours do, which are ValueErrors."""
    return isinstance(error, ValueError)
