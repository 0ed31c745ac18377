"""Points with their errors over examples beside their spread over seeds."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import Metric
from lowrank.records.columns import metrics_of
from lowrank.records.repeats import POINT, dense_of_their_own, of_their_own
from lowrank.reporting.curves import summarise
from lowrank.reporting.examples import (
    ERRORS,
    errors_of,
    have_outcomes,
    held_by,
    read_outcomes,
    stamps,
    values_of,
)

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = float("nan"), float("nan"), float("nan")


def summarise_with_errors(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The points of `summarise`, with the errors over examples of the task's metrics.

    To each metric that is an average over examples come, after its name, ``_se``, the standard
    error of its mean over seeds for another draw of test examples and the same networks, and
    ``_low`` and ``_high``, the ends of its 95 % interval. An example counts once, however many
    networks saw it. NaN where a record has no outcomes of its examples.

    Args, Raises: as `summarise`; a file of outcomes is damaged.
    """
    points = summarise(frame, columns)
    metrics = tuple(metric for metric in metrics_of(frame).values() if metric.average)
    shown = [metric for metric in metrics if metric.name in columns]
    if not shown:
        return points
    errors: dict[Any, Mapping[str, float]] = {}
    own: Any = of_their_own(frame)
    there = have_outcomes(own)
    for point, rows in own.groupby(list(POINT), dropna=False):
        paths = tuple(rows["path"])
        known = all(there[rows.index])
        errors[_place(point)] = _errors(paths, stamps(paths), metrics) if known else {}
    places = [_place(row) for row in points[list(POINT)].itertuples(index=False)]
    names = [f"{metric.name}{end}" for metric in shown for end in ERRORS]
    missing = float("nan")
    added = {name: [errors[place].get(name, missing) for place in places] for name in names}
    return points.assign(**added)


def dense_errors(frame: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """The standard error over examples of a measure of the dense model, and its 95 % interval.

    Of its mean over seeds, as `lowrank.reporting.curves.dense_baseline` has it. NaN without
    outcomes, or for what the dense model has by definition.
    """
    metric = metrics_of(frame).get(column)
    if metric is None or metric.average is None or metric.dense is not None:
        return UNKNOWN
    rows: Any = frame[frame["seed"].isin(dense_of_their_own(frame))]
    rows = rows[have_outcomes(rows)].drop_duplicates("seed")
    if len(rows) < len(dense_of_their_own(frame)):
        return UNKNOWN
    found = read_outcomes(rows["path"])
    if not held_by(found, metric, "dense"):
        return UNKNOWN
    return errors_of(values_of(found, column, "dense"), metric)


def said(points: pd.DataFrame, columns: Sequence[str]) -> str:
    """A sentence on the errors over examples in `columns` of points; empty if there are none."""
    names = [f"{name}_se" for name in columns if f"{name}_se" in points]
    missing = [points[name].isna() for name in names]
    if not names or all(one.all() for one in missing):
        return ""
    some = any(one.any() for one in missing)
    return (
        " se: standard error over the examples of the test split, for the same networks"
        f"{', where outcomes of single examples are on record' if some else ''}."
    )


# Each figure and table of a report asks for the same points.
@functools.lru_cache(maxsize=100_000)
def _errors(
    paths: tuple[str, ...], stamps: tuple[Any, ...], metrics: tuple[Metric, ...]
) -> Mapping[str, float]:
    """The errors of the mean over the records at `paths`, by column."""
    del stamps
    found, errors = read_outcomes(paths), {}
    for metric in metrics:
        if held_by(found, metric):
            three = errors_of(values_of(found, metric.name), metric)
            names = [f"{metric.name}{end}" for end in ERRORS]
            errors |= dict(zip(names, three, strict=True))
    return errors


def _place(point: Any) -> tuple[Any, ...]:
    """The name of a point as a key; NaN, as of a method without a level, equals itself."""
    return tuple(None if value != value else value for value in point)
