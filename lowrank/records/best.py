"""The best of the competing models, the only one that keeps its file.

Records compete if they say so ("keep") and share task, model, method, level, norm and recovery:
they differ in seeds and other hyperparameters. One process at a time decides, from the records
alone. It writes the record of the new best before the record of the old best drops its file. A
process killed in between leaves both models, and the next decision keeps one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lowrank.records.claims import Claims
from lowrank.records.companions import EXPORTED, MODEL, OF_EXPORT, remove
from lowrank.records.files import read, write
from lowrank.records.keys import canonical_text

# Which models stay beside their records.
Keep = Literal["all", "best"]
# The field of a record that says that it competes, and its value.
FIELD, COMPETES = "keep", "best"
# The field with the quality on the validation split, by which is chosen.
CHOSEN_BY = "validation"
ALIKE = ("task", "model", "method", "level", "norm", "recovery")
# Settings of the config on which the size of the model depends besides.
SIZES = ("where", "values")
# The claim held by the process that decides, like the claim of a point.
LOCK = "best"


@dataclass(frozen=True)
class Contender:
    """A record that competes.

    Attributes:
        path: the file of the record.
        group: the values of `ALIKE`, equal in all records that compete with it.
        worth: its quality by the first metric of its task, with the sign changed where lower is
            better; None if that is undefined, which is worse than any number.
        file: the file of its model, if the record names one.
    """

    path: Path
    group: tuple[Any, ...]
    worth: float | None
    file: str | None

    @property
    def key(self) -> str:
        """The key of its point."""
        return self.path.stem

    @property
    def place(self) -> tuple[bool, float, str]:
        """The sort key: the best comes first; equally good ones follow the order of their keys."""
        return self.worth is None, -(self.worth or 0.0), self.key

    @property
    def is_kept(self) -> bool:
        """Whether the file of its model exists."""
        return self.file is not None and (self.path.parent / self.file).is_file()


def competes(record: Mapping[str, Any]) -> bool:
    """Whether the model of a record stays only if it is the best."""
    return record.get(FIELD) == COMPETES


@contextmanager
def deciding(folder: Path) -> Iterator[None]:
    """Inside, no other process decides in the folder.

    Raises:
        OSError: the folder cannot be written.
    """
    with Claims(folder).waiting(LOCK):
        yield


def settle(folder: Path) -> None:
    """Keep the best of the competing models; remove the others, and their names from the records.

    To be called inside `deciding` only.

    Raises:
        OSError: the folder cannot be written.
    """
    for group in _kept(folder):
        for other in group[1:]:
            _give_up(other)


def clear(folder: Path) -> None:
    """Settle a decision that a killed process left unfinished.

    Raises:
        OSError: the folder cannot be written.
    """
    if any(len(group) > 1 for group in _kept(folder)):
        with deciding(folder):
            settle(folder)


def lacking(folder: Path) -> frozenset[str]:
    """The keys of the best points whose model does not exist.

    This happens if a file was removed, or if the best point was measured again and became worse.

    Raises:
        OSError: a model is lacking and the folder cannot be written.
    """
    if not _lacking(folder):
        return frozenset()
    # Records read during a decision may be inconsistent, so they are read again without one.
    with deciding(folder):
        return _lacking(folder)


def _lacking(folder: Path) -> frozenset[str]:
    paths = folder.glob("*.json")
    return frozenset(one.key for one, *_ in _groups(_contenders(paths)) if not one.is_kept)


def _kept(folder: Path) -> list[list[Contender]]:
    """The contenders whose model exists, by group, the best first."""
    files = [path.name for path in folder.glob("*.safetensors")]
    paths = {folder / f"{key}.json" for key in filter(None, map(MODEL.key_of, files))}
    return _groups([one for one in _contenders(paths) if one.is_kept])


def _contenders(paths: Iterable[Path]) -> list[Contender]:
    """The records at `paths` that compete."""
    found = [_contender(path, _stamp(path)) for path in paths]
    return [one for one in found if one is not None]


def _groups(found: Iterable[Contender]) -> list[list[Contender]]:
    """The contenders in groups that compete with each other, the best first."""
    groups: dict[tuple[Any, ...], list[Contender]] = {}
    for one in sorted(found, key=lambda one: one.place):
        groups.setdefault(one.group, []).append(one)
    return list(groups.values())


def _stamp(path: Path) -> tuple[int, ...]:
    """The time, size and inode of a file, which change when it is replaced; empty if there is no
    file.
    """
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


# Every point of a sweep reads all records, few of which changed since the last point.
@functools.lru_cache(maxsize=100_000)
def _contender(path: Path, stamp: tuple[int, ...]) -> Contender | None:
    del stamp
    try:
        return _of(path, read(path))
    # The file is gone or is no record; the reader of all records reports it.
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _of(path: Path, record: Mapping[str, Any]) -> Contender | None:
    if not competes(record) or record["key"] != path.stem:
        return None
    judged, worth = record["metrics"][0], record[CHOSEN_BY].get(record["metrics"][0]["name"])
    sign = 1 if judged["higher_is_better"] else -1
    sizes = (canonical_text(record["config"].get(name)) for name in SIZES)
    group = (*(record[name] for name in ALIKE), *sizes)
    return Contender(path, group, None if worth is None else sign * worth, MODEL.named(record))


def _give_up(loser: Contender) -> None:
    """Remove the names of a model and of its export from its record, then both."""
    # The record keeps its time, since it was not measured again.
    as_of, before = loser.path.stat(), read(loser.path)
    names = [name for name in (MODEL.named(before), EXPORTED.named(before)) if name is not None]
    gone = {MODEL.field, *OF_EXPORT}
    write({name: value for name, value in before.items() if name not in gone}, loser.path, as_of)
    for name in names:
        remove(loser.path.parent / name)
