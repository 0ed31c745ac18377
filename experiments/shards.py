"""Shards: the points of a sweep divided among machines that know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.plan import SweepJob


@dataclass(frozen=True)
class Shard:
    """One part of a sweep.

    Every machine composes the same list of points and takes its own part of it, so that each point
    is in exactly one shard, whatever has been measured by then. The points of a shard follow each
    other in the list, where those that share a trained model and its dense measures are neighbours.

    Args:
        number: from 1.
        total: how many shards there are.
    """

    number: int
    total: int

    def own(self, jobs: Sequence[SweepJob]) -> list[SweepJob]:
        """The jobs of this shard, in their order; two of the same point are in the same shard."""
        keys = list(dict.fromkeys(job.key for job in jobs))
        first, end = (len(keys) * n // self.total for n in (self.number - 1, self.number))
        mine = set(keys[first:end])
        return [job for job in jobs if job.key in mine]

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


def shard_of(jobs: Sequence[SweepJob]) -> Shard:
    """The shard that the settings of a sweep's points ask for; the whole if they ask for none.

    Raises:
        SystemExit: it is none, or there are several.
    """
    asked = list(dict.fromkeys(job.settings["shard"] for job in jobs))
    try:
        if len(asked) > 1:
            raise ValueError(
                f"shard={','.join(map(str, asked))} must be one shard: start a sweep for each"
            )
        return _read(asked[0]) if asked else Shard(1, 1)
    except ValueError as error:
        raise SystemExit(f"Nothing was run, because of\n{error}") from None


def say_whole(shard: Shard, jobs: Sequence[SweepJob]) -> None:
    """Say how many points of all shards have their record where this one's are."""
    done = sum((job.folder / f"{job.key}.json").is_file() for job in jobs)
    said = f"shard {shard}: {done} of the {len(jobs)} points of all shards have their record here"
    if done == len(jobs):
        said += f"; python -m experiments.report runs={jobs[0].folder} reports them"
    print(said, flush=True)


def _read(text: Any) -> Shard:
    """The shard that a setting names."""
    if text is None:
        return Shard(1, 1)
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(text))
    number, total = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= total:
        raise ValueError(
            f"shard={text} must be a number from 1 and the number of all shards, from 1/16 to "
            "16/16 of 16"
        )
    return Shard(number, total)
