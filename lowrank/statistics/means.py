"""Weighted means over examples, and their standard errors.

Arrays have one row per example. Their columns are the repetitions of one measurement, such as
networks trained with other seeds; what is estimated is the mean over the columns. An example counts
once, however many columns it has: the errors are those of another draw of examples for the same
networks.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from lowrank.metrics.metric import Average
from lowrank.statistics.student import LEVEL, half_width

# A mean of shares leaves 0 and 1 by less than this.
ROUNDING = 1e-9


def weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean of each column, shape (columns,).

    Args:
        values: shape (n, columns).
        weights: not below 0, shape (n, columns) or (n, 1); 0 where a column lacks an example.
    """
    weights = np.broadcast_to(weights, values.shape)
    return (weights * values).sum(axis=0) / weights.sum(axis=0)


def influences(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The influence of each example on the weighted mean of each column, shape (n, columns).

    The influence w (v − mean) / Σw is the first-order change of the mean when the example counts
    once more; the influences of all examples sum to 0.

    Args:
        values, weights: as of `weighted_means`.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 21.
    """
    weights = np.broadcast_to(weights, values.shape)
    centred = values - weighted_means(values, weights)
    return weights * centred / weights.sum(axis=0)


def error_of(influence: np.ndarray) -> float:
    """The standard error of an estimate from the influence of each example, shape (n,).

    √(n/(n−1) Σ influence²). For the plain mean this is s/√n, s the sample standard deviation. NaN
    for one example, which says nothing about others.
    """
    n = len(influence)
    return float(np.sqrt(n / (n - 1) * np.square(influence).sum())) if n > 1 else float("nan")


def standard_error(values: np.ndarray, weights: np.ndarray, average: Average = "mean") -> float:
    """The standard error over examples of a metric, meaned over the columns.

    Args:
        values, weights: as of `weighted_means`; one column may be given as shape (n,).
        average: "exp": of exp(mean), by the delta method.

    Source: Oehlert, The American Statistician 46(1), 1992 (delta method).
    """
    return error_of(influence_on_metric(values, weights, average))


def influence_on_metric(
    values: np.ndarray, weights: np.ndarray, average: Average = "mean"
) -> np.ndarray:
    """The influence of each example on a metric, meaned over the columns, shape (n,).

    Examples without weight are left out, for they are none of the n that error counts.
    The influence on a difference of two metrics of the same examples is the difference of theirs.

    Args:
        values, weights, average: as of `standard_error`.
    """
    values, weights = _columns(values), _columns(weights)
    counted = (weights > 0).any(axis=1)
    values, weights = values[counted], weights[counted]
    columns = values.shape[1]
    slopes = np.full(columns, 1 / columns)
    if average == "exp":
        slopes = slopes * np.exp(weighted_means(values, weights))
    return influences(values, weights) @ slopes


def metric_of(values: np.ndarray, weights: np.ndarray, average: Average = "mean") -> float:
    """A metric, meaned over the columns.

    Args:
        values, weights, average: as of `standard_error`.
    """
    means = weighted_means(_columns(values), _columns(weights))
    return float((np.exp(means) if average == "exp" else means).mean())


def interval(mean: float, error: float, n: int, average: Average = "mean") -> tuple[float, float]:
    """The 95 % confidence interval of a metric over examples, Student's t with n − 1 degrees.

    Of "exp" it is that of the mean below it, and so lies unevenly about exp(mean).

    Args:
        mean: the metric.
        error: its standard error, on the scale of the metric.
        n: examples.

    Returns:
        Its ends; NaN for one example.
    """
    if n < 2 or error != error:
        return float("nan"), float("nan")
    reach = half_width(error, n - 1)
    if average == "exp":
        # The slope of log at the metric is 1 / metric.
        with np.errstate(over="ignore"):
            factor = float(np.exp(reach / mean))
        return mean / factor, mean * factor
    return mean - reach, mean + reach


def are_shares(values: np.ndarray) -> bool:
    """Whether all values of examples lie within 0 and 1; those of a word error rate need not."""
    return bool(((values >= 0) & (values <= 1)).all())


def interval_of_share(share: float, error: float, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of a mean of values within 0 and 1, such as a share of examples.

    Wilson's interval for the number of independent examples that would have the same error; for
    n where the error is 0, as of a model that is always right. It is right for shares near 0 and 1,
    where mean ± 2 errors leaves the range or has no width.

    Args:
        share: within 0 and 1, up to rounding.
        error: its standard error.
        n: examples.

    Raises:
        ValueError: a share outside.

    Source: Wilson, JASA 22(158), 1927; Kish, Survey Sampling, 1965 (effective number).
    """
    if n < 1:
        return float("nan"), float("nan")
    if not -ROUNDING <= share <= 1 + ROUNDING:
        raise ValueError(f"{share} is no share: it must lie within 0 and 1")
    share = min(max(share, 0.0), 1.0)
    spread = share * (1 - share)
    # Examples of hardly any weight may leave an error and a share of exactly 1.
    alike = spread / error**2 if spread > 0 and error**2 > 0 else n
    z2 = float(special.ndtri((1 + LEVEL) / 2)) ** 2 / alike
    centre = (share + z2 / 2) / (1 + z2)
    reach = np.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return float(max(0.0, centre - reach)), float(min(1.0, centre + reach))


def _columns(values: np.ndarray) -> np.ndarray:
    """An array of examples as float64 with columns: shape (n,) becomes (n, 1)."""
    values = np.asarray(values, dtype=float)
    return values[:, None] if values.ndim == 1 else values
