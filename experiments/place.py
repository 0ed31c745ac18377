"""The place of a sweep in its list of points, whoever measures them.

The folder of records is all that the workers of a sweep, other sweeps of the same points and their
machines have in common. So the names of its files are counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.plan import SweepJob
from lowrank.files import scratch
from lowrank.records.claims import Claims


@dataclass(frozen=True)
class Waited:
    """The points of one folder that had no record when the sweep began, or are measured again.

    Attributes:
        keys: those of the points, with how many points of the sweep have each.
        old: the keys that had a record already.
        since: when the sweep began, by the clock of the file system.
    """

    keys: Mapping[str, int]
    old: frozenset[str]
    since: float

    def made(self, folder: str) -> set[str]:
        """The keys that have their record by now; takes a look at names, and at old records."""
        found = set()
        with os.scandir(folder) as entries:
            for entry in entries:
                key, suffix = os.path.splitext(entry.name)
                if suffix != ".json" or key not in self.keys:
                    continue
                if key not in self.old or entry.stat().st_mtime > self.since:
                    found.add(key)
        return found


@dataclass(frozen=True)
class SweepPlace:
    """The place of a sweep in its list of points, for all its processes.

    Args:
        total: points of the sweep.
        done: those that had their record when it started.
        waited: the others, by folder of records.
        failures: a file with the keys of those that failed, which other machines do not see.
    """

    total: int
    done: int
    waited: Mapping[str, Waited]
    failures: Path

    def since(self, folder: str) -> float:
        """When the sweep began, by the clock of a folder of records."""
        return self.waited[folder].since if folder in self.waited else 0.0

    def fail(self, key: str) -> None:
        """Count a point that failed, if it did so on the machine where the sweep began."""
        with suppress(OSError), self.failures.open("a") as file:  # It is only a count.
            file.write(f"{key}\n")

    def count(self) -> int | None:
        """How many points were done or failed since the start; None where it cannot be known."""
        failed: set[str] = set()
        with suppress(OSError):
            failed.update(self.failures.read_text().split())
        count = 0
        try:
            for folder, waited in self.waited.items():
                found = waited.made(folder) | (failed & waited.keys.keys())
                count += sum(waited.keys[key] for key in found)
        except OSError:  # This machine has no such folder.
            return None
        return count

    def said(self) -> str:
        """The place as text, with the time left at the rate of all who work on these points; empty
        where it cannot be known.
        """
        count, seconds = self.count(), self._seconds()
        if count is None or seconds is None:
            return ""
        if not count:
            return f"[{self.done}/{self.total}]"
        left = self.total - self.done - count
        minutes, seconds = divmod(round(seconds / count * left), 60)
        return f"[{self.done + count}/{self.total}, {minutes}:{seconds:02d} left]"

    def _seconds(self) -> float | None:
        """Since the start, by the clock of the file system: those of machines differ."""
        folder, waited = next(iter(self.waited.items()))
        try:
            return max(0.0, Claims(Path(folder)).now() - waited.since)
        except OSError:  # The disk is full, for one.
            return None


@contextmanager
def counting(jobs: Sequence[SweepJob], total: int, done: int) -> Iterator[SweepPlace]:
    """The place of a sweep that starts now with these jobs.

    Raises:
        OSError: a folder of records cannot be written.
    """
    waited = {}
    for folder in dict.fromkeys(job.folder for job in jobs):
        keys = Counter(job.key for job in jobs if job.folder == folder)
        old = frozenset(key for key in keys if (folder / f"{key}.json").exists())
        waited[str(folder)] = Waited(keys, old, Claims(folder).now())
    with scratch.folder() as own:
        failures = own / "failures"
        failures.touch()
        yield SweepPlace(total, done, waited, failures)
