"""Statistics as numbers and as text, for the rows of tables."""

from __future__ import annotations

from collections.abc import Mapping

from lowrank.metrics.metric import NONE, Metric
from lowrank.statistics.estimates import Estimate


def numbers(found: Mapping[str, Estimate]) -> dict[str, float]:
    """The columns of statistics for CSV: each by its name, and its standard error after ``_se``."""
    columns: dict[str, float] = {}
    for name, one in found.items():
        columns |= {name: one.value, f"{name}_se": one.error}
    return columns


def texts(shown: Mapping[str, Metric], found: Mapping[str, Estimate]) -> dict[str, str]:
    """The columns of the `shown` statistics as text, by their headings; a dash where there is none.

    Args:
        shown, found: by name.
    """
    return {
        metric.heading: metric.text(found[name].value, found[name].error) if name in found else NONE
        for name, metric in shown.items()
    }
