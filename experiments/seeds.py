"""Points that only their seeds tell apart, and for which a seed draws nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.parts import make_parts
from experiments.plan import Job
from lowrank.records import store
from lowrank.recovery import NoRecovery


def repeats(jobs: Sequence[Job]) -> int:
    """How many of the points are sure to give the numbers of another one, timings aside."""
    alike = Counter(store.point(job.settings) for job in jobs)
    several = [job for job in jobs if alike[store.point(job.settings)] > 1]
    idle = Counter(store.point(job.settings) for job in several if draws_nothing(job.settings))
    return sum(count - 1 for count in idle.values())


def draws_nothing(settings: Mapping[str, Any]) -> bool:
    """Whether the seed of a point changes neither its model, nor its data, nor its method."""
    parts = make_parts(settings)
    return not (
        parts.task.draws_model
        or parts.norm.needs_data
        or parts.allocation.needs_data
        or not isinstance(parts.recovery, NoRecovery)
        or _has_seed(settings["allocation"])
    )


def _has_seed(config: Any) -> bool:
    if isinstance(config, Mapping):
        return "seed" in config or any(map(_has_seed, config.values()))
    return isinstance(config, list) and any(map(_has_seed, config))
