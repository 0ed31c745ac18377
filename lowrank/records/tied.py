"""Whether outcomes are those of a record: the means of its metrics over their examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lowrank.metrics.metric import read_metrics
from lowrank.records.checks import is_number

# What float32 rounds of outcomes, relative to values above 1.
TOLERANCE = 2e-5
# The metric of every task that is rounded to the dtype of the model, which may be bfloat16.
LOSS, LOSS_TOLERANCE = "loss", 1e-2


def check_tied(
    record: Mapping[str, Any], parts: Mapping[str, Mapping[str, np.ndarray]], weights: np.ndarray
) -> None:
    """Raise ValueError unless metrics that average over examples are the means of the outcomes.

    So a file of another record, or one of another measurement of its point, is none of this one.

    Args:
        record: as it was read from its file.
        parts: ``dense`` and ``compressed`` → the values of metrics (n,) by name.
        weights: of the examples (n,).
    """
    for metric in read_metrics(record.get("metrics"), "metrics"):
        tolerance = LOSS_TOLERANCE if metric.name == LOSS else TOLERANCE
        for part, own in parts.items():
            held, values = record.get(part), own.get(metric.name)
            value: Any = held.get(metric.name) if isinstance(held, Mapping) else None
            if metric.average is None or values is None or not is_number(value):
                continue
            mean = float(np.average(values, weights=weights))
            expected = value
            if metric.average == "exp":
                expected = math.log(value) if value > 0 else -math.inf
            if not abs(mean - expected) <= tolerance * max(abs(expected), 1.0):
                raise ValueError(
                    f"the outcomes beside record {record.get('key')} are of another measurement, "
                    f"so measure its point again: the mean {metric.name} of the "
                    f"{part} model over their examples is {mean:.6g}, where the record has "
                    f"{'the logarithm ' if metric.average == 'exp' else ''}{expected:.6g}"
                )
