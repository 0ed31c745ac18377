"""The axes of the explorer: each measure of the records, with its scale, its direction and what
the dense model has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import Metric
from lowrank.records.columns import COSTS, measure, metrics_of
from lowrank.reporting.curves import dense_baseline

if TYPE_CHECKING:
    import pandas as pd

SECONDS = Metric(
    "timings.compress_s", "seconds to compress", "time to compress", higher_is_better=False
)
# The scales of ratios, and of sizes that span decades.
LOGARITHMIC = ("ratio", "bits", "log", "whole", "seconds")
# What the dense model has of a ratio to itself.
ITSELF = 1.0


def axes(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The measures that the records hold, as plain mappings, those of quality first.

    Each has the fields of its `Metric` that a page needs, with a scale "seconds" too; its `group`
    (quality, validation, size, time); `dense` (mean, standard deviation over seeds; None for none);
    and `log`, whether its axis is logarithmic, as those of ratios and sizes are.

    Args:
        frame: rows of `lowrank.records.store.load`, of one comparison.
    """
    held = {str(name) for name in frame if not all(frame[name].isna())}
    found = []
    for name, metric in metrics_of(frame).items():
        if name in held:
            found.append(_axis(frame, metric, "quality"))
        if f"validation_{name}" in held:
            found.append(_axis(frame, measure(frame, f"validation_{name}"), "validation"))
    found += [_axis(frame, cost, "size") for name, cost in COSTS.items() if name in held]
    timed = [name for name in map(str, frame) if name in held and _is_time(name)]
    found += [_axis(frame, measure(frame, name), "time") for name in timed]
    if SECONDS.name in held:
        found.append(_axis(frame, SECONDS, "time"))
    return sorted(found, key=lambda axis: axis["group"] == "validation")


def _axis(frame: pd.DataFrame, metric: Metric, group: str) -> dict[str, Any]:
    is_seconds = metric.name.startswith("latency_") or metric is SECONDS
    scale = "seconds" if is_seconds else metric.scale
    return {
        "name": metric.name,
        "title": metric.words,
        "heading": metric.heading,
        "scale": scale,
        "higher": metric.higher_is_better,
        "log": scale in LOGARITHMIC,
        "group": group,
        "chance": metric.chance,
        "average": metric.average,
        "dense": _dense(frame, metric),
    }


def _dense(frame: pd.DataFrame, metric: Metric) -> list[float | None] | None:
    """Mean and standard deviation over seeds of the dense model."""
    if metric.scale == "ratio":
        return [ITSELF, None]
    try:
        mean, spread = dense_baseline(frame, metric.name)
    except ValueError:  # No record holds it.
        return None
    return [mean, None if spread != spread else spread]


def _is_time(column: str) -> bool:
    return bool(re.fullmatch(r"speedup_b\d+|latency_b\d+_s", column))
