"""The influence of each example on a metric that is no mean of examples, such as BLEU."""

from __future__ import annotations

import numpy as np


def jackknife(without: np.ndarray) -> np.ndarray:
    """The influences of examples on a metric, shape (n,); their sum is 0.

    The influence of an example is (n − 1)/n · (mean of `without` − the metric without it). The
    standard error that `lowrank.statistics.means.error_of` makes of them is that of the jackknife,
    √((n − 1)/n Σ (θ₋ᵢ − mean)²).

    Args:
        without: the metric on all examples but one, for each of them, shape (n,).

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11.
    """
    return (without.mean() - without) * (len(without) - 1) / len(without)


def as_values(metric: float, influences: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Values of examples whose weighted mean is the metric and has these influences, shape (n,).

    Args:
        influences: shape (n,), 0 where the weight is.
        weights: of the examples, shape (n,).
    """
    safe = np.where(weights > 0, weights, 1)
    return metric + influences * weights.sum() / safe
