"""Standard errors of weighted means, and of changes between two of them."""

from __future__ import annotations

import math

import numpy as np


def influences(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How far each example moves the weighted mean: w (x − mean) / Σ w, float64 (n,).

    Those of a function of the mean are these times its derivative (the delta method), and those of
    a difference are the differences.

    Args:
        values: (n,).
        weights: (n,), from 0, one of them above it.
    """
    mean = (weights * values).sum() / weights.sum()
    return weights * (values - mean) / weights.sum()


def standard_error(influences: np.ndarray, weights: np.ndarray) -> float:
    """The standard error of a statistic of independent examples: √(n / (n − 1) Σ influence²).

    n counts the examples whose weight is above 0. With equal weights this is the usual s / √n.
    Examples that depend on each other, such as parts of one text, make it too small.

    Returns:
        NaN if there are fewer than two examples.

    Source: for the weighted mean, a ratio of two sums: Cochran, Sampling Techniques, 3rd ed., 1977,
    section 2.11.
    """
    count = int((weights > 0).sum())
    if count < 2:
        return math.nan
    return math.sqrt(count / (count - 1) * float(np.square(influences).sum()))
