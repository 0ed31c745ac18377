"""The outcomes of single examples behind the points of a table, figure or comparison."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lowrank.metrics.metric import Metric
from lowrank.records import outcomes
from lowrank.records.companions import OUTCOMES, outcomes_name
from lowrank.statistics.means import (
    are_shares,
    interval,
    interval_of_share,
    metric_of,
    standard_error,
)

if TYPE_CHECKING:
    import pandas as pd

    from lowrank.records.outcomes import Outcomes

# In bytes. Outcomes of 10,000 examples take about 1 MB.
MOST_HELD = 2**28
# The share of outcomes that take the place of others.
REPLACING = 0.1

Part = Literal["dense", "compressed"]

# Ends of the names of the columns with the error over examples, and with its interval.
ERRORS = ("_se", "_low", "_high")


@dataclass(frozen=True)
class MetricValues:
    """The values of one metric of several records for each example.

    Attributes:
        values: shape (n, records), 0 for an example that a record lacks.
        weights: shape (n, records), 0 for an example that a record lacks.
    """

    values: np.ndarray
    weights: np.ndarray


def have_outcomes(rows: pd.DataFrame) -> Any:
    """Which rows name outcomes whose file is beside their record, booleans by row."""
    import pandas as pd

    if OUTCOMES.field not in rows:
        return pd.Series(False, index=rows.index)
    pairs = zip(rows["path"], rows[OUTCOMES.field], strict=True)
    found = [isinstance(file, str) and (Path(path).parent / file).is_file() for path, file in pairs]
    return pd.Series(found, index=rows.index)


def stamps(paths: Iterable[str]) -> tuple[Any, ...]:
    """What changes when a file of outcomes is replaced: its time and size, by the record's path."""
    found = (outcomes_name(Path(path).stem) for path in paths)
    stats = [(Path(path).parent / name).stat() for path, name in zip(paths, found, strict=True)]
    return tuple((one.st_mtime_ns, one.st_size) for one in stats)


def read_outcomes(paths: Iterable[str]) -> list[Outcomes]:
    """The outcomes of records, by their paths; not to be changed.

    A report asks for the same ones several times: they are held, as far as `MOST_HELD` reaches.

    Raises:
        ValueError: as `lowrank.records.outcomes.of_record`.
    """
    return [_HELD.read(path) for path in paths]


class HeldOutcomes:
    """Outcomes that were read, held as far as there is room.

    Where there is none, few of those that are read take the place of others, both drawn: reports
    read records in the same order again and again, so the least recently used are the next.

    Args:
        most: bytes of all arrays.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held: dict[str, tuple[Any, Outcomes]] = {}
        self._size = 0
        self._random = random.Random(0)

    def read(self, path: str) -> Outcomes:
        """The outcomes of a record; errors as of `read_outcomes`."""
        try:
            now = stamps([path])
        except OSError:  # The text of the error is that of reading.
            return outcomes.of_record(path)
        if path in self.held:
            before, found = self.held[path]
            if before == now:
                return found
            self._drop(path)
        found = outcomes.of_record(path)
        size = found.nbytes
        fits = self._size + size <= self.most
        if fits or (size <= self.most and self._random.random() < REPLACING):
            while self._size + size > self.most:
                self._drop(self._random.choice(list(self.held)))
            self.held[path] = now, found
            self._size += size
        return found

    def _drop(self, path: str) -> None:
        self._size -= self.held.pop(path)[1].nbytes


_HELD = HeldOutcomes(MOST_HELD)


def values_of(found: Sequence[Outcomes], metric: str, part: Part = "compressed") -> MetricValues:
    """The values of a metric in outcomes, a column for each, a row for each example of any.

    Examples are paired by their hashes. Those without weight are left out.
    """
    first = found[0].examples
    examples = first
    if not all(np.array_equal(one.examples, first) for one in found):
        examples = np.unique(np.concatenate([one.examples for one in found]))
    values = np.zeros((len(examples), len(found)))
    weights = np.zeros_like(values)
    order = np.argsort(examples, kind="stable")
    for column, one in enumerate(found):
        own = getattr(one, part)[metric]
        at = slice(None)
        if one.examples is not examples and not np.array_equal(one.examples, examples):
            at = order[np.searchsorted(examples, one.examples, sorter=order)]
        values[at, column], weights[at, column] = own, one.weights
    counted = (weights > 0).any(axis=1)
    return MetricValues(values[counted], weights[counted])


def errors_of(found: MetricValues, metric: Metric) -> tuple[float, float, float]:
    """The standard error over examples of the mean over records of a metric, and its interval."""
    assert metric.average is not None
    given = found.values, found.weights, metric.average
    mean, error, n = metric_of(*given), standard_error(*given), len(found.values)
    if metric.scale == "percent" and metric.average == "mean" and are_shares(found.values):
        return error, *interval_of_share(mean, error, n)
    return error, *interval(mean, error, n, metric.average)


def held_by(found: Sequence[Outcomes], metric: Metric, part: Part = "compressed") -> bool:
    """Whether the outcomes of all hold values of a metric that is an average of them."""
    return metric.average is not None and all(metric.name in getattr(one, part) for one in found)
