"""The plan of a sweep: its points, those without a record, and the errors in their settings."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from lowrank.numerics.checks import check_one_of
from lowrank.records import best, store
from lowrank.records.companions import EXPORTED, MODEL, OUTCOMES

# The most bytes of a file name.
LONGEST_NAME = 255
# Which models stay beside their records.
KEEP = ("none", *get_args(best.Keep))
# Of a folder the points that are the best there and whose models are not; see `best.lacking`.
Lacking = Callable[[Path], Set[str]]


@dataclass(frozen=True)
class SweepJob:
    """One point of a sweep: its overrides, and all its settings."""

    overrides: list[str]
    settings: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where its record is to be."""
        return Path(self.settings["results"])

    @functools.cached_property
    def key(self) -> str:
        """The name of its record."""
        return store.key(self.settings)

    def check_choices(self) -> None:
        """Raise ValueError if a choice would have no effect, or cannot be a name or a number."""
        _check_names(self.settings["sweep"], self.settings["results"])
        _check_finite(self.settings, "")
        _check_saving(**self.settings["save"])
        idle = [name for name in self.settings["norm"] if name != "_target_"]
        if self.settings["norm_name"] == "identity" and idle:
            raise ValueError(
                f"norm=identity takes no {' and no '.join(idle)}, which the recipe of the "
                "method or the command line sets: leave out norm=identity, or take a recipe "
                "without it, such as method=svd"
            )

    def is_done(self, lacking: Lacking) -> bool:
        """Whether its record is there and nobody asks for another.

        Raises:
            ValueError: what is there is broken, and nobody asks for another.
        """
        return not self.settings["force"] and has_all(self.settings, self.key, lacking)


def has_all(settings: Mapping[str, Any], key: str, lacking: Lacking) -> bool:
    """Whether the record of a point is there, with its outcomes, and its model where that is kept.

    Raises:
        ValueError: what is there is no record.
    """
    folder, keep = Path(settings["results"]), settings["save"]["models"]
    record = store.find(key, folder)
    if record is None or not OUTCOMES.is_kept(record, folder):
        return False
    if keep == "none":
        return True
    has_model = MODEL.is_kept(record, folder) and _has_export(record, settings, folder)
    if keep == "all":
        return has_model
    # Of those that are not the best the record names no model.
    is_whole = MODEL.field not in record or has_model
    return best.competes(record) and is_whole and key not in lacking(folder)


def _has_export(record: Mapping[str, Any], settings: Mapping[str, Any], folder: Path) -> bool:
    """Whether the model is there in the format that is asked for."""
    asked = settings["save"]["format"]
    is_same = record.get("exported_format") == asked
    return asked is None or is_same and EXPORTED.is_kept(record, folder)


def _check_saving(models: Any, format: Any, options: Any) -> None:
    """Raise ValueError for what cannot be chosen in conf/save, or would have no effect."""
    check_one_of("save.models", models, KEEP)
    if models == "none" and format is not None:
        raise ValueError(
            f"save.format={format} has no effect without save=all or save=best: give one of them"
        )
    if options and format is None:
        raise ValueError("save.options has no effect without save.format: give the format")


def _check_names(sweep: Any, folder: Any) -> None:
    """Raise ValueError unless they can be the names of a sweep and of its folder of records."""
    for name, value in (("sweep", sweep), ("results", folder)):
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError(f"{name}={value!r} must be a text that is not empty")
    if "/" in sweep or "\\" in sweep or sweep in (".", ".."):
        raise ValueError(
            f"sweep={sweep} must be the name of a folder, and not a path: give results=… for "
            "records in another place"
        )
    for part in (sweep, *Path(folder).parts):
        if len(part.encode()) > LONGEST_NAME:
            raise ValueError(
                f"the name {part[:20]}… has {len(part.encode())} bytes; that of a folder has at "
                f"most {LONGEST_NAME}"
            )


def _check_finite(value: Any, place: str) -> None:
    """Raise ValueError for a number in the settings, at that place, that none can be."""
    if isinstance(value, Mapping):
        value = list(value.items())
    elif isinstance(value, list):
        value = [(str(number), part) for number, part in enumerate(value)]
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place}={value} must be a finite number")
    else:
        return
    for name, part in value:
        _check_finite(part, f"{place}.{name}" if place else name)


def pending(jobs: Sequence[SweepJob]) -> list[SweepJob]:
    """The jobs that have no record yet.

    Raises:
        SystemExit: with one line for each error: a choice that has no effect, or a record that is
            broken.
    """
    left, errors, lacking = [], {}, functools.cache(best.lacking)
    for job in jobs:
        try:
            job.check_choices()
            if not job.is_done(lacking):
                left.append(job)
        except (ValueError, OSError) as error:
            errors.setdefault(str(error), " ".join(job.overrides))
    _stop(errors)
    return left


def without_best(jobs: Sequence[SweepJob]) -> list[SweepJob]:
    """The jobs whose models are to be kept as the best of their folder, and are not there."""
    keeping = [job for job in jobs if job.settings["save"]["models"] == "best"]
    lacking = {folder: best.lacking(folder) for folder in {job.folder for job in keeping}}
    return [job for job in keeping if job.key in lacking[job.folder]]


def check(jobs: Sequence[SweepJob], n_jobs: object = 1, sweep: Sequence[SweepJob] = ()) -> None:
    """Find the errors in the jobs' settings and data before any of them starts.

    Args:
        n_jobs: how many run at once, as `worker_count` has it.
        sweep: all points of the sweep, of which some may have their record.

    Raises:
        SystemExit: with one line for each error.
    """
    # Brings torch, which a sweep whose records are all there does without.
    from experiments import checks
    from experiments.seeds import check_draws
    from experiments.workers import worker_count

    try:
        processes = worker_count(n_jobs)
    except ValueError as error:
        raise SystemExit(f"Nothing was run, because of\n{error}") from None
    # What takes no time comes before what reads the data of all.
    _each(jobs, checks.check_options)
    _stop(_of_folders({job.folder for job in jobs}))
    _each(jobs, checks.check_fit)
    try:
        check_draws(sweep or jobs)
    except ValueError as error:
        raise SystemExit(f"Nothing was run, because of\n{error}") from None
    _each(jobs, lambda settings: checks.check_data(settings, processes))
    checks.forget()


def say_repeats(jobs: Sequence[SweepJob]) -> None:
    """Say if points are there for several seeds that draw nothing."""
    from experiments.seeds import repeats

    count = repeats(jobs)
    if count:
        print(
            f"note: {count} of these {len(jobs)} points only repeat another one: no weights, no "
            "calibration data and no method in them is drawn with the seed",
            file=sys.stderr,
        )


def _each(jobs: Sequence[SweepJob], check_one: Callable[[Mapping[str, Any]], None]) -> None:
    from experiments.parts import reason, say_where

    errors: dict[str, str] = {}
    for job in jobs:
        try:
            check_one(job.settings)
        except Exception as error:
            if reason(error) not in errors:
                say_where(error)
            errors.setdefault(reason(error), " ".join(job.overrides))
    _stop(errors)


def _of_folders(folders: set[Path]) -> dict[str, str]:
    errors = {}
    for folder in folders:
        try:
            store.check_writable(folder)
        except ValueError as error:
            errors[str(error)] = "results"
    return errors


def _stop(errors: Mapping[str, str]) -> None:
    """Stop if there are errors (what is wrong → where)."""
    if errors:
        lines = [f"{where}: {why}" for why, where in errors.items()]
        raise SystemExit("\n".join(["Nothing was run, because of", *lines]))
