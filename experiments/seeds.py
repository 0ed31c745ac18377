"""Points that differ only in their seeds, and seeds that draw nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.parts import make_parts
from lowrank.records import store
from lowrank.recovery import NoRecovery

if TYPE_CHECKING:
    from experiments.plan import SweepJob

# The beginning of an override of the calibration data's seed.
CALIBRATION = "task.calibration_seed="


def repeats(jobs: Sequence[SweepJob]) -> int:
    """The number of points that must give the same numbers as another one, timings aside."""
    points = [store.point(job.settings) for job in jobs]
    alike = Counter(points)
    several = [job for job, point in zip(jobs, points, strict=True) if alike[point] > 1]
    return sum(count - 1 for count in Counter(_drawn(job.settings) for job in several).values())


def draws_nothing(settings: Mapping[str, Any]) -> bool:
    """Whether the seed of a point changes neither its model, nor its data, nor its method."""
    draws = make_parts(settings).task.draws_model or _has_seed(settings["method"])
    return not (draws or calibrates(settings))


def calibrates(settings: Mapping[str, Any]) -> bool:
    """Whether a point reads calibration data, or what a recovery may."""
    parts = make_parts(settings)
    return parts.needs_data or not isinstance(parts.recovery, NoRecovery)


def check_draws(jobs: Sequence[SweepJob]) -> None:
    """Check that a seed of the calibration data, where it is given, draws some.

    Of a sweep over several methods some may calibrate and some not, whose points then repeat.

    Raises:
        ValueError: it does in none of the points.
    """
    asked = [(job, text) for job in jobs for text in job.overrides if text.startswith(CALIBRATION)]
    others = [text for job, text in asked if not _follows(job.settings)]
    if others and not any(calibrates(job.settings) for job, _ in asked):
        raise ValueError(
            f"{others[0]} has no effect: neither norm, method nor recovery of any point reads "
            "calibration data. Leave it out, or give a method that calibrates, such as "
            "method=wanda"
        )


def _follows(settings: Mapping[str, Any]) -> bool:
    """Whether the calibration data are drawn with the seed, as where nothing is said of them."""
    return settings["task"].get("calibration_seed") == settings["seed"]


def _drawn(settings: Mapping[str, Any]) -> str:
    """The key of a point without the seeds that draw nothing in it."""
    if draws_nothing(settings):
        return store.point(settings)
    if calibrates(settings):
        return store.key(settings)
    return store.key({**settings, "task": {**settings["task"], "calibration_seed": None}})


def _has_seed(config: Any) -> bool:
    if isinstance(config, Mapping):
        return "seed" in config or any(map(_has_seed, config.values()))
    return isinstance(config, list) and any(map(_has_seed, config))
