"""The paired difference of two models, or of two curves, with interval and p-value.

Two errors are told apart. That over examples is the error of another draw of the test split, for
the same networks; examples are resampled with all networks of an example together. That between
networks is the error of other seeds. With fewer than five seeds it cannot be estimated, and nothing
is said of other seeds; from five on the difference is one of seeds too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from lowrank.metrics.metric import Average
from lowrank.statistics import student
from lowrank.statistics.crossed import CrossedVariance, crossed_variance
from lowrank.statistics.means import error_of
from lowrank.statistics.resampling import ResampledMeans
from lowrank.statistics.sign_flips import sign_flips

# From this many seeds on, the difference is one of seeds too.
LEAST_SEEDS = 5
# Differences below this share of the values are those of rounding.
ROUNDING = 1e-12
# Of fewer examples than these on which two points differ, all may speak for one of them by chance.
FEW = 10


@dataclass(frozen=True)
class Difference:
    """The difference of two metrics, first − second.

    Attributes:
        first, second: the metrics.
        error: standard error of first − second: over examples, and over seeds if the difference is
            one `over_seeds`.
        between: the part of it that more examples would leave; 0 where seeds are fixed.
        low, high: the ends of the 95 % interval of first − second; NaN where nothing is known.
        p: two-sided p-value of no difference.
        over_seeds: whether the difference is one of other seeds too.
        by_signs: whether `p` is that of `lowrank.statistics.sign_flips`, and not of Student's t.
    """

    first: float
    second: float
    error: float
    between: float
    low: float
    high: float
    p: float
    over_seeds: bool
    by_signs: bool

    @property
    def value(self) -> float:
        """The difference first − second."""
        return self.first - self.second


def difference(
    sample: ResampledMeans, first: np.ndarray, second: np.ndarray, average: Average = "mean"
) -> Difference:
    """The paired difference of two curves at one size.

    `first` and `second` say of which columns of `sample` each curve takes which share, for each
    seed (`lowrank.statistics.interpolation.shares`); for two measured points these are 0 and 1. A
    metric "exp" is interpolated and tested by its logarithm, in which a perplexity is a mean.

    Of fewer than five seeds, the networks are fixed:

    - The interval is the expanded percentile interval of a paired bootstrap of the examples, which
      widens it as Student's t does that of the normal law (Hesterberg, The American Statistician
      69(4), 2015). The degrees of freedom are those of the examples that make the difference,
      (Σd²)²/Σd⁴ − 1: ten examples of 10,000 on which two models differ count as ten (Kish, Survey
      Sampling, 1965).
    - The p-value of two measured points is that of `lowrank.statistics.sign_flips.sign_flips` over
      the examples: the share of a bootstrap's resamples would have no digits left for many tests.
    - A value between two points is no model's, and its differences are not as likely of either
      sign: where a share 0.02 of a weak point is taken in, many are +0.02 and few −0.98. So its
      p-value is that of Student's t. Where two of the points differ on fewer than ten examples, one
      more is added that differs as far as any does, the other way: the rare ones may be missing.

    From five seeds on, interval and p-value are those of Student's t with the variance over
    examples and seeds and its degrees of freedom (`lowrank.statistics.crossed`); where only seeds
    vary this is the t test of their differences. Where that variance is estimated as 0, because all
    seeds have the same mean by chance, the variance over examples stands in for it.

    Logarithms and perplexities may rank two curves of several seeds in opposite ways. Then there
    is no difference to claim, and the p-value is 1.

    Args:
        sample: means and resamples of the columns of all models.
        first, second: shares, shape (columns, seeds).
    """
    of_which = _over_seeds if first.shape[1] >= LEAST_SEEDS else _of_these
    error, between, low, high = of_which(sample, first, second, average)
    one, other = (_metric(sample.means @ part, average) for part in (first, second))
    return Difference(
        first=float(one.mean()),
        second=float(other.mean()),
        error=error,
        between=between,
        low=low,
        high=high,
        p=p_value(sample, first, second, average),
        over_seeds=first.shape[1] >= LEAST_SEEDS,
        by_signs=_is_by_signs(first - second),
    )


def p_value(
    sample: ResampledMeans, first: np.ndarray, second: np.ndarray, average: Average = "mean"
) -> float:
    """The p-value of `difference` alone, which needs no resamples.

    Args:
        sample, first, second, average: as of `difference`.
    """
    one, other = (_metric(sample.means @ part, average) for part in (first, second))
    apart = first - second
    if float((sample.means @ apart).mean() * (one - other).mean()) < 0:
        return 1.0
    influence, means = _without_rounding(sample, apart)
    own = _own(sample, apart, influence, means)
    counted, value = _counted(own), float(means.mean())
    if _is_by_signs(apart):
        return sign_flips(own)
    # Where nothing varies the mean square about 0 stands in for a variance.
    of_these = error_of(influence.mean(axis=1)) ** 2 + value**2 / sample.examples
    if apart.shape[1] < LEAST_SEEDS:
        guarded = _guarded(own, _most(sample.terms, first, second))
        return max(_of_t(own, of_these, counted), guarded)
    found = crossed_variance(influence, means)
    if not counted or not _is_known(found, value):
        return _of_t(own, of_these, counted)
    return _of_t(own, found.total, found.degrees(counted))


def _is_by_signs(apart: np.ndarray) -> bool:
    """Whether shares are those of two measured points of fewer than five seeds."""
    return apart.shape[1] < LEAST_SEEDS and bool(np.isin(apart, (-1, 0, 1)).all())


def _of_these(
    sample: ResampledMeans, first: np.ndarray, second: np.ndarray, average: Average
) -> tuple[float, float, float, float]:
    """Error, part between seeds, and interval for other examples and the same networks."""
    n, apart = sample.examples, first - second
    growth = n / (n - 1) if n > 1 else float("nan")
    each = [_metric(sample.resampled @ part, average) for part in (first, second)]
    shown = (each[0] - each[1]).mean(axis=1)
    counted = _counted(_own(sample, apart, *_without_rounding(sample, apart)))
    return float(np.sqrt(growth) * shown.std()), 0.0, *_percentiles(shown, counted, growth)


def _over_seeds(
    sample: ResampledMeans, first: np.ndarray, second: np.ndarray, average: Average
) -> tuple[float, float, float, float]:
    """Error, part between seeds, and interval for other examples and other seeds."""
    apart = first - second
    influence, means = _without_rounding(sample, apart)
    own = _own(sample, apart, influence, means)
    if average == "exp":
        # By the slopes of exp: a perplexity moves by itself times what its logarithm moves by.
        one, other = (_metric(sample.means @ part, average) for part in (first, second))
        influence = sample.influence @ first * one - sample.influence @ second * other
        means = one - other
    found, value = crossed_variance(influence, means), float(means.mean())
    degrees, error = _counted(own), error_of(influence.mean(axis=1))
    if _is_known(found, value):
        degrees, error = found.degrees(degrees) if degrees else 0.0, float(np.sqrt(found.total))
    reach = float("nan") if own.any() else 0.0
    if degrees > 0 and error > 0:
        reach = student.half_width(error, degrees)
    return error, float(np.sqrt(found.between)), value - reach, value + reach


def _is_known(found: CrossedVariance, value: float) -> bool:
    """Whether a variance over examples and seeds is more than rounding."""
    return found.total > (ROUNDING * value) ** 2


def _metric(means: np.ndarray, average: Average) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(means) if average == "exp" else means


def _without_rounding(sample: ResampledMeans, apart: np.ndarray) -> tuple[Any, Any]:
    """The influences on a difference, and its value; 0 where only rounding is left of them.

    Args:
        apart: the shares of the columns in it, shape (columns, seeds).
    """
    influence, value = sample.influence @ apart, sample.means @ apart
    least = ROUNDING * float(np.abs(sample.means).max())
    alike = (np.abs(influence).max(axis=0) <= least) & (np.abs(value) <= least)
    return np.where(alike, 0.0, influence), np.where(alike, 0.0, value)


def _own(sample: ResampledMeans, apart: np.ndarray, influence: Any, means: Any) -> np.ndarray:
    """Of each example in the mean difference, which is their sum, shape (n,)."""
    if not np.any(influence) and not np.any(means):
        return np.zeros(sample.examples)
    return (sample.terms @ apart).mean(axis=1)


def _counted(own: np.ndarray) -> float:
    """The degrees of freedom of the examples that make a difference, their sum; 0 for none."""
    if len(own) < 2 or not np.any(own):
        return 0.0
    squares = np.square(own / np.abs(own).max())
    counted = float(squares.sum() ** 2 / np.square(squares).sum()) - 1
    # One example makes the whole difference.
    return counted if counted > 1e-6 else 0.0


def _of_t(own: np.ndarray, variance: float, degrees: float) -> float:
    """The p-value of no difference; 1 where nothing is known of it."""
    value = abs(float(own.sum()))
    # Where seeds and examples cancel in every mean there is no variance left either.
    if not degrees > 0 or not value:
        return 1.0
    return student.p_value(value, np.sqrt(variance), degrees)


def _guarded(own: np.ndarray, most: float) -> float:
    """The p-value with one example more, which differs by `most` the other way; 0 for none."""
    value = float(own.sum())
    if not most:
        return 0.0
    if abs(value) <= most:
        return 1.0
    more = np.append(own, -np.sign(value) * most)
    spread = float(np.square(more - more.mean()).sum())
    return _of_t(more, spread + float(more.sum()) ** 2 / len(more), _counted(more))


def _most(terms: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """How far one example may speak against what the others say, meaned over seeds.

    Where two points of the curves differ on few examples only, those that speak against may all be
    missing: then as far as any two points differ on an example. Else 0, for they have been seen.
    """
    found = []
    for one, other in zip(first.T, second.T, strict=True):
        apart = np.abs(terms[:, one > 0][:, :, None] - terms[:, other > 0][:, None, :])
        differ = (apart > ROUNDING * np.abs(terms).max()).sum(axis=0)
        found.append(float(apart.max()) if differ.min() < FEW else 0.0)
    return float(np.mean(found))


def _percentiles(shown: np.ndarray, degrees: float, growth: float) -> tuple[float, float]:
    if not degrees > 0:
        alike = bool(np.ptp(shown) == 0)
        return (0.0, 0.0) if alike and shown[0] == 0 else (float("nan"), float("nan"))
    reach = student.half_width(np.sqrt(growth), degrees)
    tail = float(special.ndtr(-reach))
    low, high = np.quantile(shown, [tail, 1 - tail])
    return float(low), float(high)
