"""What a sweep has to do: its points, those that have their records, and what is wrong in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowrank import results


@dataclass(frozen=True)
class Job:
    """One point to be: what makes it differ, and all its settings."""

    overrides: list[str]
    settings: dict[str, Any]

    def is_done(self) -> bool:
        """Whether its record is there and nobody asks for another."""
        present = results.exists(results.key(self.settings), self.settings["results"])
        return present and not self.settings["force"]


def check(jobs: Sequence[Job]) -> None:
    """Find what is wrong with the jobs' settings before any of them starts.

    Raises:
        SystemExit: with one line for each error.
    """
    # Brings torch, which a sweep whose records are all there does without.
    from experiments.point import make_parts, reason

    errors = {}
    for folder in {job.settings["results"] for job in jobs}:
        try:
            results.check_writable(folder)
        except ValueError as error:
            errors[reason(error)] = "results"
    for job in jobs:
        try:
            make_parts(job.settings)
        except Exception as error:
            errors.setdefault(reason(error), " ".join(job.overrides))
    if errors:
        lines = [f"{where}: {why}" for why, where in errors.items()]
        raise SystemExit("\n".join(["Nothing was run, because of", *lines]))
