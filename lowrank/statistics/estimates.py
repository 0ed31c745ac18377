"""Estimates from independent examples, with their standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lowrank.statistics.means import error_of, influence_on_metric


@dataclass(frozen=True, eq=False)
class Estimate:
    """A statistic of examples, and how far each of them moves it.

    Attributes:
        value: the statistic.
        influence: float64 (n,), how far each example moves it; see
            `lowrank.statistics.means.influences`.
        examples: int64 (n,), what tells the examples apart.
    """

    value: float
    influence: np.ndarray = field(repr=False)
    examples: np.ndarray = field(repr=False)

    @property
    def error(self) -> float:
        """The standard error over the examples; NaN if there are fewer than two."""
        return error_of(self.influence)

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two statistics of the same examples, which are paired."""
        if not np.array_equal(self.examples, other.examples):
            raise ValueError("a difference needs two estimates of the same examples, in one order")
        moved = self.influence - other.influence
        return Estimate(self.value - other.value, moved, self.examples)


def weighted_mean(values: np.ndarray, weights: np.ndarray, examples: np.ndarray) -> Estimate:
    """The weighted mean of values (n,); examples of weight 0 do not count.

    Raises:
        ValueError: no weight is above 0.
    """
    counted = weights > 0
    if not counted.any():
        raise ValueError("a mean needs an example whose weight is above 0")
    values, weights = values[counted].astype(np.float64), weights[counted]
    mean = float((weights * values).sum() / weights.sum())
    return Estimate(mean, influence_on_metric(values, weights), examples[counted])


def averaged(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of one statistic of several models, such as those of several seeds.

    The influences of an example on all of them add up, so its error is over the examples, with the
    models as they are: examples that the models share do not count as several.

    Raises:
        ValueError: there is none.
    """
    if not estimates:
        raise ValueError("an average needs an estimate")
    together = np.concatenate([one.examples for one in estimates])
    moved = np.concatenate([one.influence for one in estimates]) / len(estimates)
    examples, place = np.unique(together, return_inverse=True)
    influence = np.bincount(place, weights=moved, minlength=len(examples))
    return Estimate(float(np.mean([one.value for one in estimates])), influence, examples)
