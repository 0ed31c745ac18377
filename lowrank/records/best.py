"""Which of the models that compete is the best, and keeps its file.

Records compete that have a quality on the validation split, are of one task and model, and go by
one method, level, norm and recovery: repetitions with other seeds, and other hyperparameters. All
is decided from the records themselves, by one process at a time. The record of a new best is there
before that of the old one stops to name its file, so that whoever is killed meanwhile leaves one
best model or both, of which the next who decides keeps one.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lowrank.records import models
from lowrank.records.claims import Claims
from lowrank.records.files import read, write

# Which models stay beside their records.
Keep = Literal["all", "best"]
# The field of a record with the quality on the validation split.
FIELD = "validation"
ALIKE = ("task", "model", "method", "level", "norm", "recovery")
# Claimed, as points are, by whoever decides.
LOCK = "best"


@dataclass(frozen=True)
class Contender:
    """A record that competes.

    Attributes:
        path: of the record.
        group: what it has in common with those that it competes with.
        worth: its quality by the first metric of its task, so that more is better; None if that is
            undefined, which every number is better than.
        file: of its model, if the record names one.
    """

    path: Path
    group: tuple[Any, ...]
    worth: float | None
    file: str | None

    @property
    def key(self) -> str:
        """The name of its record."""
        return self.path.stem

    @property
    def place(self) -> tuple[bool, float, str]:
        """The least of these is the best; of those that are equally good the first by key."""
        return self.worth is None, -(self.worth or 0.0), self.key

    @property
    def is_kept(self) -> bool:
        """Whether its model is there."""
        return self.file is not None and (self.path.parent / self.file).is_file()


@contextmanager
def deciding(folder: Path) -> Iterator[None]:
    """Let nobody else decide in a folder meanwhile.

    Raises:
        OSError: the folder cannot be written.
    """
    with Claims(folder).waiting(LOCK):
        yield


def settle(folder: Path) -> None:
    """Of the models that compete keep the best; records of the others no longer name theirs.

    Only within `deciding`.

    Raises:
        OSError: the folder cannot be written.
    """
    for group in _kept(folder):
        for other in group[1:]:
            _give_up(other)


def clear(folder: Path) -> None:
    """Settle what a process left there that died while it decided.

    Raises:
        OSError: the folder cannot be written.
    """
    if any(len(group) > 1 for group in _kept(folder)):
        with deciding(folder):
            settle(folder)


def lacking(folder: Path) -> frozenset[str]:
    """The keys of the points that are the best and whose model is not there.

    As where the file was removed, or where the best was measured again and became worse.

    Raises:
        OSError: the folder cannot be written, in which one is lacking.
    """
    if not _lacking(folder):
        return frozenset()
    # Records that were read while somebody decided may not be of one moment.
    with deciding(folder):
        return _lacking(folder)


def _lacking(folder: Path) -> frozenset[str]:
    paths = folder.glob("*.json")
    return frozenset(one.key for one, *_ in _groups(_contenders(paths)) if not one.is_kept)


def _kept(folder: Path) -> list[list[Contender]]:
    """Those whose model is there, by group, the best first."""
    files = [path.name for path in folder.glob("*.safetensors")]
    paths = {folder / f"{key}.json" for key in filter(None, map(models.key_of, files))}
    return _groups([one for one in _contenders(paths) if one.is_kept])


def _contenders(paths: Iterable[Path]) -> list[Contender]:
    """The records of these that compete."""
    found = [_contender(path, _stamp(path)) for path in paths]
    return [one for one in found if one is not None]


def _groups(found: Iterable[Contender]) -> list[list[Contender]]:
    """Those that compete with each other, the best first."""
    ordered = sorted(found, key=lambda one: (repr(one.group), one.place))
    return [list(group) for _, group in itertools.groupby(ordered, lambda one: one.group)]


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells a file from the one that was there before it; empty if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


# All points of a sweep ask, and few records are new to each of them.
@functools.lru_cache(maxsize=100_000)
def _contender(path: Path, stamp: tuple[int, ...]) -> Contender | None:
    del stamp
    try:
        return _of(path, read(path))
    # It is gone, or is no record, which whoever reads the records is told.
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _of(path: Path, record: Mapping[str, Any]) -> Contender | None:
    if FIELD not in record or record["key"] != path.stem:
        return None
    judged, worth = record["metrics"][0], record[FIELD].get(record["metrics"][0]["name"])
    sign = 1 if judged["higher_is_better"] else -1
    group = tuple(record[name] for name in ALIKE)
    return Contender(path, group, None if worth is None else sign * worth, models.named(record))


def _give_up(loser: Contender) -> None:
    """Let a record no longer name its model, and then remove that."""
    assert loser.file is not None
    # Its time stays: it was not measured again.
    as_of = loser.path.stat()
    record = {name: value for name, value in read(loser.path).items() if name != models.FIELD}
    write(record, loser.path, as_of)
    (loser.path.parent / loser.file).unlink(missing_ok=True)
