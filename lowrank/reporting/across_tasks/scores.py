"""The mean quality over several tasks, with errors over their test examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank.reporting.across_tasks.contenders import Contest
from lowrank.reporting.evidence import check_evidence
from lowrank.reporting.examples import read_outcomes, values_of
from lowrank.statistics.differences import Difference, difference
from lowrank.statistics.means import are_shares, error_of, interval, interval_of_share
from lowrank.statistics.resampling import RESAMPLES, ResampledMeans, resample

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Score:
    """The mean over tasks and seeds of one contender.

    Attributes:
        spread: sample standard deviation over seeds; NaN for one.
        error: standard error over test examples, for the same networks.
        low, high: the 95 % interval over test examples.
    """

    mean: float
    spread: float
    error: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class TaskScores:
    """The means over tasks of all contenders, a column for each contender and seed.

    Attributes:
        paired: whether the tasks have the same test examples, changed, in the same order: then an
            example counts once, with all that the tasks made of it.
        are_shares: whether all values lie within 0 and 1.
    """

    contest: Contest
    sample: ResampledMeans
    paired: bool
    are_shares: bool

    def of(self, contender: int) -> Score:
        """The score of the contender at this place."""
        columns = self._columns(contender)
        means = self.sample.means[columns]
        error = error_of(self.sample.influence[:, columns].mean(axis=1))
        mean = float(means.mean())
        spread = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
        ends = interval(mean, error, self.sample.examples, "mean")
        if self.contest.metric.scale == "percent" and self.are_shares:
            ends = interval_of_share(mean, error, self.sample.examples)
        return Score(mean, spread, error, *ends)

    def test(self, first: int, second: int) -> Difference:
        """The paired difference of two contenders; see `lowrank.statistics.differences`."""
        return difference(self.sample, self._shares(first), self._shares(second))

    def _columns(self, contender: int) -> slice:
        seeds = len(self.contest.seeds)
        return slice(contender * seeds, (contender + 1) * seeds)

    def _shares(self, contender: int) -> np.ndarray:
        seeds = len(self.contest.seeds)
        shares = np.zeros((len(self.sample.means), seeds))
        shares[self._columns(contender)] = np.eye(seeds)
        return shares


def scores(
    frame: pd.DataFrame, found: Contest, resamples: int = RESAMPLES, seed: int = 0
) -> TaskScores:
    """The means over tasks of the contenders, from the outcomes beside their records.

    Each task counts alike. Where all tasks are changes of the same test examples, their outcomes
    are averaged by example first, so that an error takes into account that they vary together;
    where they are not, the examples of each task are drawn apart.

    Args:
        resamples, seed: of the bootstrap.

    Raises:
        ValueError: a record has no outcomes, or two of one task have other test examples.
    """
    values, weights, targets = [], [], []
    for task in found.tasks:
        rows: Any = frame.loc[
            [one.rows[task, own] for one in found.contenders for own in found.seeds]
        ]
        check_evidence(rows, found.metric)
        outcomes = read_outcomes(rows["path"])
        own = values_of(outcomes, found.metric.name)
        if not (own.weights == own.weights[:, :1]).all():
            raise ValueError(
                f"the records of task {task} were measured on different test splits: measure all "
                "on one"
            )
        values.append(own.values)
        weights.append(own.weights[:, :1])
        targets.append(outcomes[0].target)
    paired = all(_same(weights[0], one) for one in weights) and all(
        _same(targets[0], one) for one in targets
    )
    if paired:
        sample = resample(np.mean(values, axis=0), weights[0], resamples, seed)
    else:
        pairs = zip(values, weights, strict=True)
        sample = _together(
            [resample(*one, resamples, seed + place) for place, one in enumerate(pairs)]
        )
    return TaskScores(found, sample, paired, all(map(are_shares, values)))


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def _together(samples: list[ResampledMeans]) -> ResampledMeans:
    """The mean of means of different examples, which are strata: each is drawn by itself."""
    count = len(samples)
    return ResampledMeans(
        sum((one.means for one in samples), start=np.zeros(())) / count,
        sum((one.resampled for one in samples), start=np.zeros(())) / count,
        np.concatenate([one.influence for one in samples]) / count,
        np.concatenate([one.terms for one in samples]) / count,
    )
