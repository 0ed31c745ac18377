"""Tests of pairs of points, or of places between them, on the same test examples."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank.metrics.metric import Metric
from lowrank.records.repeats import dense_numbers, outcome_numbers
from lowrank.reporting.examples import (
    MetricValues,
    have_outcomes,
    held_by,
    read_outcomes,
    values_of,
)
from lowrank.statistics.differences import Difference, difference, p_value
from lowrank.statistics.hypotheses import one_sided
from lowrank.statistics.resampling import RESAMPLES, ResampledMeans, resample

if TYPE_CHECKING:
    import pandas as pd

# A place on the curve of a method: for each seed, the share of each record in its value, by the
# record's row in the frame.
Reading = Mapping[Hashable, Mapping[Hashable, float]]


@dataclass(frozen=True)
class Tested:
    """The difference of two readings, first − second.

    Attributes:
        difference: values, error, interval and p-value.
        seeds: how many seeds with numbers of their own were compared.
        networks: how many dense models with numbers of their own these seeds have.
        exact: whether the p-value is that of the exact test of McNemar.
    """

    difference: Difference
    seeds: int
    networks: int
    exact: bool


@dataclass(frozen=True, eq=False)
class Evidence:
    """The values per example of all rows of a frame, under common resamples; see `evidence`."""

    metric: Metric
    columns: Mapping[Hashable, int]
    outcomes: Mapping[Hashable, int]
    dense: Mapping[Hashable, int]
    paths: Sequence[str]
    values: MetricValues
    sample: ResampledMeans

    @property
    def examples(self) -> int:
        """The number of test examples."""
        return self.sample.examples

    def test(self, first: Reading, second: Reading) -> Tested | None:
        """The paired test of two readings over the seeds that both have; None if there is none.

        Raises:
            ValueError: two records of one seed were measured on other examples.
        """
        seeds = self._distinct(first, second)
        if not seeds:
            return None
        assert self.metric.average is not None
        found = difference(*self._sides(first, second, seeds), self.metric.average)
        networks = {self.dense[seed] for seed in seeds}
        exact = self._is_mcnemars(first, second, seeds)
        return Tested(found, len(seeds), len(networks), exact)

    def better(self, first: Reading, second: Reading) -> float:
        """The one-sided p-value that the first is no better; NaN if the two share no seed.

        It needs no resamples.

        Raises:
            ValueError: as `test`.
        """
        seeds = self._distinct(first, second)
        if not seeds:
            return float("nan")
        assert self.metric.average is not None
        sides = sample, *shares = self._sides(first, second, seeds)
        p = p_value(*sides, self.metric.average)
        value = float((sample.means @ (shares[0] - shares[1])).mean())
        return one_sided(p, self.metric.sign * value)

    def _sides(
        self, first: Reading, second: Reading, seeds: Sequence[Hashable]
    ) -> tuple[ResampledMeans, np.ndarray, np.ndarray]:
        """The columns of two readings, and the shares of each in them, (columns, seeds)."""
        used = sorted(
            {self.columns[row] for seed in seeds for row in (*first[seed], *second[seed])}
        )
        shares = np.zeros((2, len(used), len(seeds)))
        for at, seed in enumerate(seeds):
            self._check_paired([*first[seed], *second[seed]])
            for side, reading in enumerate((first, second)):
                for row, share in reading[seed].items():
                    shares[side, used.index(self.columns[row]), at] = share
        part = replace(
            self.sample,
            means=self.sample.means[used],
            resampled=self.sample.resampled[:, used],
            influence=self.sample.influence[:, used],
            terms=self.sample.terms[:, used],
        )
        return part, shares[0], shares[1]

    def _distinct(self, first: Reading, second: Reading) -> list[Hashable]:
        """The common seeds; of those that gave the same numbers in both, the first."""
        found: dict[Any, Hashable] = {}
        for seed in first:
            if seed in second:
                numbers = tuple(
                    (self.outcomes[row], share)
                    for reading in (first, second)
                    for row, share in reading[seed].items()
                )
                found.setdefault(numbers, seed)
        return list(found.values())

    def _check_paired(self, rows: Sequence[Hashable]) -> None:
        weights = self.values.weights
        one, *others = (self.columns[row] for row in rows)
        for other in others:
            if not np.array_equal(weights[:, one], weights[:, other]):
                shared = int(((weights[:, one] > 0) & (weights[:, other] > 0)).sum())
                counts = [int((weights[:, column] > 0).sum()) for column in (one, other)]
                raise ValueError(
                    f"the test examples of {self.paths[one]} and {self.paths[other]} cannot be "
                    f"paired: {counts[0]} and {counts[1]}, of which {shared} are the same. They "
                    "were measured on different test splits: measure both on one"
                )

    def _is_mcnemars(self, first: Reading, second: Reading, seeds: Sequence[Hashable]) -> bool:
        """Whether two measured points of one seed have each example right or wrong.

        Then the sign-flip test is the exact test of McNemar.
        """
        if len(seeds) > 1 or len(first[seeds[0]]) > 1 or len(second[seeds[0]]) > 1:
            return False
        rows = [next(iter(reading[seeds[0]])) for reading in (first, second)]
        columns = [self.columns[row] for row in rows]
        weights = self.values.weights[:, columns[0]]
        counted = weights > 0
        is_right_or_wrong = bool(np.isin(self.values.values[counted][:, columns], (0, 1)).all())
        return is_right_or_wrong and len(np.unique(weights[counted])) == 1


def evidence(
    rows: pd.DataFrame, metric: Metric, resamples: int = RESAMPLES, seed: int = 0
) -> Evidence:
    """The evidence of rows of `lowrank.records.store.load` with outcomes, about one metric.

    Args:
        metric: an average over examples.
        resamples, seed: of the bootstrap; no resamples where only p-values are asked for.

    Raises:
        ValueError: the metric is no average, or a record has no outcomes, or none of this metric.
    """
    check_evidence(rows, metric)
    found = read_outcomes(rows["path"])
    values = values_of(found, metric.name)
    columns = {row: column for column, row in enumerate(rows.index)}
    sample = resample(values.values, values.weights, resamples, seed)
    numbers = outcome_numbers(rows), dense_numbers(rows)
    return Evidence(metric, columns, *numbers, list(rows["path"]), values, sample)


def check_evidence(rows: pd.DataFrame, metric: Metric) -> None:
    """Raise ValueError unless a metric is an average, and all rows have outcomes of it."""
    if metric.average is None:
        raise ValueError(
            f"{metric.name} is no average over examples, so no test of single examples can be "
            "made of it: take a metric that is"
        )
    lacking: Any = rows[~have_outcomes(rows)]
    if len(lacking):
        raise ValueError(
            f"{len(lacking)} of {len(rows)} records have no outcomes of single examples beside "
            f"them, such as {lacking['path'].iloc[0]}: measure their points again"
        )
    found = read_outcomes(rows["path"])
    bare = [
        path for path, one in zip(rows["path"], found, strict=True) if not held_by([one], metric)
    ]
    if bare:
        raise ValueError(f"the outcomes of {bare[0]} hold no {metric.name}")
