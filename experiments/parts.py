"""The library's objects that the settings of a point name."""

from __future__ import annotations

import functools
import inspect
import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from lowrank.allocation import Allocation
from lowrank.calibration import NormProvider
from lowrank.decomposers import Decomposer
from lowrank.export.formats import format_named
from lowrank.export.formats.format import Format
from lowrank.model.select import Select
from lowrank.point import MeasureSettings
from lowrank.point.dense import text
from lowrank.recovery import Recovery
from lowrank.tasks import Task

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Parts:
    """The library's objects of a point."""

    task: Task
    method: Decomposer | Allocation
    where: Select
    norm: NormProvider
    recovery: Recovery
    measure: MeasureSettings

    @property
    def needs_data(self) -> bool:
        """Whether the compression reads calibration data."""
        return self.norm.needs_data or (
            isinstance(self.method, Allocation) and self.method.needs_data
        )


def export_format(settings: Settings) -> Format | None:
    """The format in which models are written besides our own; see conf/save.

    Raises:
        ValueError: it or one of its options does not exist, or what it needs is not installed.
    """
    name, options = settings["save"]["format"], settings["save"]["options"]
    if name is None:
        return None
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise ValueError(f"save.format={name} must be a name, and save.options={options} a mapping")
    return format_named(name, **options)


# The base class of each part, of which the class in the settings must be.
KINDS = {
    "method": (Decomposer, Allocation),
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
        check_kind(name, made[name], kind)
    return Parts(task=shared_task(text(settings["task"])), **made)


# Keys of a config that are Hydra's own, and no fields of the target.
HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
ONE_OF_TWO = inspect.Parameter.POSITIONAL_OR_KEYWORD


# The points of a sweep share these. They come in an order in which few are needed at a time, and
# many seeds must not fill the memory.
@functools.lru_cache(maxsize=4)
def shared_task(config: str) -> Task:
    """The task of a configuration (JSON), with its data decoded once."""
    task = make(json.loads(config))
    check_kind("task", task, Task)
    return task


def make(config: Mapping[str, Any]) -> Any:
    """The object that `config` names by its `_target_`.

    Raises:
        InstantiationException: caused by its own error.
        ValueError: it has a field that its target does not know, or lacks one that it needs.
    """
    _check_fields(config)
    return instantiate(config, _convert_="all")


def _check_fields(config: Any) -> None:
    if isinstance(config, Mapping):
        if "_target_" in config:
            _check_call(config)
        config = list(config.values())
    if isinstance(config, list):
        for inner in config:
            _check_fields(inner)


def _check_call(config: Mapping[str, Any]) -> None:
    try:
        target = get_object(config["_target_"])
        parameters = inspect.signature(target).parameters.values()
    except Exception:
        return  # Where there is none, or Python does not know what it takes, Hydra says so.
    if "_args_" in config or any(one.kind == one.VAR_KEYWORD for one in parameters):
        return
    allowed = [one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, ONE_OF_TWO)]
    needed = [one.name for one in parameters if one.default is one.empty and one.name in allowed]
    unknown = [name for name in config if name not in allowed and name not in HYDRAS]
    missing = [name for name in needed if name not in config and not config.get("_partial_")]
    what = config["_target_"].rpartition(".")[2]
    if unknown:
        raise ValueError(
            f"{what} has no field {', '.join(unknown)}: it has {', '.join(allowed) or 'none'}"
        )
    if missing:
        raise ValueError(f"{what} lacks its field {', '.join(missing)}")


def check_kind(name: str, made: object, kind: type | tuple[type, ...]) -> None:
    """Raise ValueError unless a part is of its base class."""
    if not isinstance(made, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise ValueError(
            f"{name} must be a {' or '.join(one.__name__ for one in kinds)}, and is a "
            f"{type(made).__name__}: {made!r:.80}"
        )


def say_where(error: Exception) -> None:
    """Print where an error was raised, if its text alone does not say all or the user asks for it.

    As with `hydra.verbose=true`.
    """
    is_asked = HydraConfig.initialized() and bool(HydraConfig.get().verbose)
    if is_asked or not stands_alone(cause(error)):
        traceback.print_exception(error, file=sys.stderr)


def reason(error: Exception) -> str:
    """The text of an error for people; behind Hydra's wrapping, that of its cause."""
    found = cause(error)
    return str(found) if stands_alone(found) else f"{type(found).__name__}: {found}"


def cause(error: Exception) -> BaseException:
    """The error that Hydra wrapped, or the error itself."""
    wrapped = error.__cause__ if isinstance(error, InstantiationException) else None
    return wrapped or error


def stands_alone(error: BaseException) -> bool:
    """Whether the text of an error says all, as ours do, which are ValueErrors."""
    return isinstance(error, ValueError)
