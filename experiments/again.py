"""The command of a sweep that measures the point of a record again, found from the record's config.

A record is somebody's file. Its texts are only ever values of fields of this project's YAML or of
the user's own, quoted for the shell; it names no class that neither that YAML nor this library has.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from experiments.composer import Composer
from experiments.yaml_folders import CONF, own
from lowrank.records import store
from lowrank.records.files import read
from lowrank.reporting.explorer.data import Command

if TYPE_CHECKING:
    import pandas as pd

PROGRAM = "python -m experiments.sweep"
# Each group, and the field of a record with the name of its choice, if there is one.
GROUPS = {
    **{"task": "", "method": "method_name", "norm": "norm_name"},
    **{"where": "", "recovery": "recovery_name", "measure": ""},
}
# Longer ones are no commands for people, and Hydra takes seconds to read them.
LONGEST = 8000
# Words that Hydra reads as themselves, without quotes, and those among them that are no texts.
PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.@:-]*")
NO_TEXTS = re.compile(r"null|true|false|nan|inf", re.IGNORECASE)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ABSENT = object()


class Again:
    """The commands of records, composed and checked with what they have in common read once."""

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self._choices: dict[tuple[str, str], str] = {}
        self._short: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._made: dict[tuple[str, ...], dict[str, Any]] = {}

    def command(self, config: Mapping[str, Any]) -> str:
        """The command line whose one point has the key of `config`.

        Raises:
            ValueError: there is none; the text says why.
        """
        missing = [name for name in GROUPS if not isinstance(config.get(name), Mapping)]
        if missing:
            raise ValueError(f"its config has no {missing[0]} that a sweep could choose")
        chosen = self._needed(tuple(f"{name}={self._choice(name, config)}" for name in GROUPS))
        # Fields below refer to these, such as the seed of the task.
        shallow = {name: value for name, value in config.items() if not _is_nested(value)}
        chosen += tuple(_overrides(self._settings(chosen), shallow, only=shallow))
        line = [*chosen, *_overrides(self._settings(chosen), config)]
        if len(" ".join(line)) > LONGEST:
            raise ValueError(f"its config differs from every YAML in {len(line)} fields")
        if store.key(self._composed(line)) != store.key(config):
            raise ValueError("no YAML of the folder conf composes to its config")
        sweep = config.get("sweep")
        folder = [_override("sweep", sweep)] if isinstance(sweep, str) and sweep else []
        return " ".join([PROGRAM, *map(shlex.quote, [*line, *folder])])

    def _needed(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        """The choices without those that the config makes in any case; task and method stay."""
        if chosen not in self._short:
            short = chosen
            for text in chosen[2:]:
                without = tuple(one for one in short if one != text)
                if self._settings(without) == self._settings(short):
                    short = without
            self._short[chosen] = short
        return self._short[chosen]

    def _choice(self, group: str, config: Mapping[str, Any]) -> str:
        """The choice of a group whose YAML differs least from the config."""
        named = config.get(GROUPS[group] or group)
        if isinstance(named, str) and self._is_choice(group, named):
            return named
        options = sorted(self.composer.loader.get_group_options(group))
        place = group, json.dumps(config[group], sort_keys=True)
        if place not in self._choices:
            distance = {}
            for option in options:
                try:
                    settings = self._settings((f"{group}={option}",))
                except ValueError:
                    continue  # What cannot be composed cannot have been measured.
                distance[option] = sum(1 for _ in _differing(settings[group], config[group]))
            self._choices[place] = min(distance, key=lambda option: distance[option])
        return self._choices[place]

    def _is_choice(self, group: str, name: str) -> bool:
        """Whether a YAML has that name; the loader lists none of the user's."""
        if not PLAIN.fullmatch(name):
            return False
        try:
            return bool(self._settings((f"{group}={name}",)))
        except ValueError:
            return False

    def _settings(self, overrides: tuple[str, ...]) -> dict[str, Any]:
        """What is composed for many records, once."""
        if overrides not in self._made:
            self._made[overrides] = self._composed(overrides)
        return self._made[overrides]

    def _composed(self, overrides: Sequence[str]) -> dict[str, Any]:
        try:
            return self.composer.settings(overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError("no YAML of the folder conf composes to its config") from error


def command_of_each(frame: pd.DataFrame) -> dict[str, Command]:
    """The command of each record, by its key, or the reason why there is none.

    Args:
        frame: rows of `lowrank.records.store.load`.
    """
    found = {}
    with commands() as again:
        for key, path in zip(frame["key"], frame["path"], strict=True):
            try:
                found[key] = Command(again.command(read(Path(path))["config"]))
            except ValueError as error:
                found[key] = Command(None, str(error))
    return found


@contextmanager
def commands() -> Iterator[Again]:
    """Commands by the YAML of this project, and that in the folder conf where the user is."""
    folder = own()
    paths = [] if folder is None else [f"hydra.searchpath=['file://{folder.resolve()}']"]
    running, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            loader = GlobalHydra.instance().config_loader()
            master = loader.load_configuration(
                # Nothing is swept, and a program that sweeps nothing does not know our sweeper.
                "config",
                ["hydra/sweeper=basic", *paths],
                RunMode.MULTIRUN,
            )
            yield Again(Composer(loader, master))
    finally:
        GlobalHydra.instance().hydra = running
        HydraConfig.instance().cfg = config


def _overrides(
    settings: Mapping[str, Any], config: Mapping[str, Any], only: Mapping[str, Any] | None = None
) -> list[str]:
    """The overrides that turn settings into a config, but for where and how it is run."""
    names = {*settings, *config} if only is None else {*only}
    kept = names - store.VOLATILE
    ours, theirs = (
        {name: value for name, value in one.items() if name in kept} for one in (settings, config)
    )
    return [_override(path, value) for path, value in _differing(ours, theirs)]


def _differing(ours: Any, theirs: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields in which two configs differ, with the value of the second; `ABSENT` for none."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping) and ours:
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            inner = f"{path}.{name}" if path else str(name)
            if name not in ours:
                yield f"+{inner}", theirs[name]
            else:
                yield from _differing(ours[name], theirs.get(name, ABSENT), inner)
    elif _is_alike(ours, theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differing(one, other, f"{path}.{index}")
    elif type(ours) is not type(theirs) or ours != theirs:
        if not (_is_number(ours) and _is_number(theirs) and ours == theirs):
            yield path, theirs


def _is_alike(ours: Any, theirs: Any) -> bool:
    """Whether both are lists of as many mappings, such as the steps of a chain."""
    both = isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs) > 0
    return both and all(isinstance(one, Mapping) for one in [*ours, *theirs])


def _override(path: str, value: Any) -> str:
    names = path.removeprefix("+").split(".")
    if not all(NAME.fullmatch(name) or name.isdecimal() for name in names):
        raise ValueError(f"its config has a field {path[:60]!r} that no command line can name")
    if names[-1].startswith("_") and not str(value).startswith("lowrank."):
        raise ValueError(f"its config says {path}={str(value)[:60]!r}, which no YAML here does")
    return f"~{path}" if value is ABSENT else f"{path}={_literal(value)}"


def _literal(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(_literal, value))}]"
    if isinstance(value, Mapping):
        fields = [
            f"{name}:{_override(str(name), one).partition('=')[2]}" for name, one in value.items()
        ]
        return f"{{{','.join(fields)}}}"
    if "${" in value or not value.isprintable():
        raise ValueError(f"its config holds the text {value[:60]!r}, which a command would change")
    if PLAIN.fullmatch(value) and not NO_TEXTS.fullmatch(value):
        return value
    # A backslash counts double only before a quote, or at the end.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
