"""Standard errors of the metrics of a record, over the examples of the test split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from lowrank.metrics.metric import Metric
from lowrank.records.checks import is_number
from lowrank.records.outcomes import Outcomes
from lowrank.statistics.means import error_of, influence_on_metric


def standard_errors(outcomes: Outcomes, metrics: Iterable[Metric]) -> dict[str, dict[str, float]]:
    """The standard errors of "dense", of "compressed" and of the "change", compressed − dense, by
    metric.

    That of the change is paired: both models have seen the same examples, so it is far smaller than
    those of two models apart. Metrics that are no averages have none.
    """
    found: dict[str, dict[str, float]] = {"dense": {}, "compressed": {}, "change": {}}
    for metric in metrics:
        dense = _moved(metric, outcomes.dense, outcomes.weights)
        compressed = _moved(metric, outcomes.compressed, outcomes.weights)
        change = None if dense is None or compressed is None else compressed - dense
        for part, moved in (("dense", dense), ("compressed", compressed), ("change", change)):
            error = None if moved is None else error_of(moved)
            if error is not None and is_number(error):
                found[part][metric.name] = error
    return found


def _moved(
    metric: Metric, values: Mapping[str, np.ndarray], weights: np.ndarray
) -> np.ndarray | None:
    """The influences of the examples on a metric; None if it is no average of them."""
    if metric.average is None or metric.name not in values:
        return None
    return influence_on_metric(values[metric.name], weights, metric.average)
