"""The bootstrap over examples: means of many columns under the same resamples.

A resample draws n of n examples with replacement. It is a vector of counts, how often each example
was drawn, so the means of all columns in many resamples are two products of matrices. All columns
share the counts: what is alike in two models varies alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowrank.statistics.means import influences, weighted_means

RESAMPLES = 2000
# Counts that are held at a time: 32 MB.
CHUNK = 2**22


@dataclass(frozen=True)
class ResampledMeans:
    """The means of columns of values per example, and what is known of their error.

    Attributes:
        means: shape (columns,).
        resampled: the same of each resample, shape (resamples, columns).
        influence: of each example on each mean, shape (n, columns); see `influences`.
        terms: of each example in each mean, w v / Σw, shape (n, columns); they sum to `means`.
    """

    means: np.ndarray
    resampled: np.ndarray
    influence: np.ndarray
    terms: np.ndarray

    @property
    def examples(self) -> int:
        """The number n of examples."""
        return len(self.influence)


def resample(
    values: np.ndarray, weights: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> ResampledMeans:
    """The means of columns of values, with `resamples` resamples drawn by `seed`.

    Args:
        values: shape (n, columns).
        weights: not below 0, shape (n, columns) or (n, 1); 0 where a column lacks an example.

    Source: Efron, The Annals of Statistics 7(1), 1979.
    """
    total = np.broadcast_to(weights, values.shape).sum(axis=0)
    return ResampledMeans(
        weighted_means(values, weights),
        resampled_means(values, weights, resamples, seed),
        influences(values, weights),
        np.broadcast_to(weights, values.shape) * values / total,
    )


def resampled_means(
    values: np.ndarray, weights: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """The weighted mean of each column in each resample, shape (resamples, columns).

    A column none of whose examples was drawn keeps its mean, which needs a column of few examples
    among others with many.

    Args:
        values, weights: as of `resample`.
    """
    generator = np.random.default_rng(seed)
    weighted = np.broadcast_to(weights, values.shape) * values
    means = np.empty((resamples, values.shape[1]))
    plain = weighted_means(values, weights)
    rows = max(1, CHUNK // len(values))
    for start in range(0, resamples, rows):
        chunk = counts(len(values), min(rows, resamples - start), generator)
        total = np.broadcast_to(chunk @ weights, (len(chunk), values.shape[1]))
        part = means[start : start + len(chunk)]
        part[:] = plain
        np.divide(chunk @ weighted, total, out=part, where=total > 0)
    return means


def counts(n: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of n examples is drawn in each resample, float64 (resamples, n)."""
    drawn = generator.integers(0, n, (resamples, n))
    drawn += n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)
