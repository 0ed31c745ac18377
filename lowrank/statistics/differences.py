"""The paired difference of two models, or of two curves, with interval and p-value.

Two errors are told apart. That over examples is the error of another draw of the test split, for
the same networks; examples are resampled with all networks of an example together. That between
networks is the error of other seeds. With fewer than five seeds it cannot be estimated, and nothing
is said of other seeds; from five on seeds are resampled too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from lowrank.metrics.metric import Average
from lowrank.statistics.means import LEVEL
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
        error: standard error of first − second: over examples, and over seeds if they are
            `resampled`.
        between: the part of it that comes from seeds; 0 where these are fixed.
        low, high: the ends of the 95 % interval of first − second; NaN where nothing is known.
        p: two-sided p-value of no difference.
        resampled: whether seeds were resampled, so that the difference is one of seeds too.
    """

    first: float
    second: float
    error: float
    between: float
    low: float
    high: float
    p: float
    resampled: bool

    @property
    def value(self) -> float:
        """The difference first − second."""
        return self.first - self.second


def difference(
    sample: ResampledMeans,
    first: np.ndarray,
    second: np.ndarray,
    average: Average = "mean",
    seed: int = 0,
) -> Difference:
    """The paired bootstrap of two curves at one size.

    `first` and `second` say of which columns of `sample` each curve takes which share, for each
    seed (`lowrank.statistics.interpolation.shares`); for two measured points these are 0 and 1. A
    metric "exp" is interpolated and tested by its logarithm, in which a perplexity is a mean.

    - The interval is the expanded percentile interval, which widens that of the bootstrap as
      Student's t does that of the normal law (Hesterberg, The American Statistician 69(4), 2015).
      The degrees of freedom are those of the examples that make the difference, (Σd²)²/Σd⁴ − 1:
      ten examples of 10,000 on which two models differ count as ten (Kish, Survey Sampling, 1965).
    - The p-value of two measured points is that of `lowrank.statistics.sign_flips.sign_flips` over
      the examples: the share of a bootstrap's resamples would have no digits left for many tests.
    - A value between two points is no model's, and its differences are not as likely of either
      sign: where a share 0.02 of a weak point is taken in, many are +0.02 and few −0.98. So its
      p-value is that of Student's t. Where two of the points differ on fewer than ten examples, one
      more is added that differs as far as any does, the other way: the rare ones may be missing.
    - Logarithms and perplexities may rank two curves of several seeds in opposite ways. Then there
      is no difference to claim, and the p-value is 1.
    - Seeds, from five on, are resampled one fewer than there are, which makes their error unbiased
      (Rao & Wu, JASA 83(401), 1988). The p-value is then that of Student's t for the difference
      over its error if there is none, with Satterthwaite's degrees of freedom (Biometrics Bulletin
      2(6), 1946).

    Args:
        sample: means and resamples of the columns of all models.
        first, second: shares, shape (columns, seeds).
        seed: of the resampling of seeds.
    """
    apart = first - second
    seeds = apart.shape[1]
    n = sample.examples
    scale = float(np.abs(sample.means).max())
    influence = sample.influence @ apart.mean(axis=1)
    value = float((sample.means @ apart).mean())
    if np.abs(influence).max() <= ROUNDING * scale and abs(value) <= ROUNDING * scale:
        influence, value = np.zeros(n), 0.0
    growth = n / (n - 1) if n > 1 else float("nan")
    # The examples alone; and, of the same resamples, with seeds resampled.
    drawn = sample.resampled @ apart
    of_examples = growth * float(drawn.mean(axis=1).var())
    picks = _picks(len(drawn), seeds, seed)
    of_both = float((drawn * picks).sum(axis=1).var()) if seeds >= LEAST_SEEDS else of_examples
    of_seeds = max(0.0, of_both - of_examples)

    own = (sample.terms @ apart).mean(axis=1) if np.any(influence) else np.zeros(n)
    p, degrees = _test(own, of_examples, of_seeds, seeds)
    if seeds < LEAST_SEEDS:
        p = (
            sign_flips(own)
            if np.isin(apart, (-1, 0, 1)).all()
            else max(p, _guarded(own, _most(sample.terms, first, second)))
        )
    one, other = (_metric(sample.means @ part, average) for part in (first, second))
    each = [_metric(sample.resampled @ part, average) for part in (first, second)]
    shown = ((each[0] - each[1]) * picks).sum(axis=1)
    low, high = _percentiles(shown, degrees, growth)
    fixed = float(np.sqrt(growth) * (each[0] - each[1]).mean(axis=1).std())
    error = max(float(shown.std()), fixed) if seeds >= LEAST_SEEDS else fixed
    if value * float((one - other).mean()) < 0:
        p = 1.0
    return Difference(
        first=float(one.mean()),
        second=float(other.mean()),
        error=error,
        between=float(np.sqrt(max(0.0, error**2 - fixed**2))),
        low=low,
        high=high,
        p=p,
        resampled=seeds >= LEAST_SEEDS,
    )


def _metric(means: np.ndarray, average: Average) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(means) if average == "exp" else means


def _picks(resamples: int, seeds: int, seed: int) -> np.ndarray:
    """The share of each seed in the mean of each resample, shape (resamples, seeds)."""
    if seeds < LEAST_SEEDS:
        return np.full((resamples, seeds), 1 / seeds)
    generator = np.random.default_rng((seed, seeds))
    return generator.multinomial(seeds - 1, [1 / seeds] * seeds, resamples) / (seeds - 1)


def _test(own: np.ndarray, of_examples: float, of_seeds: float, seeds: int) -> tuple[float, float]:
    """The p-value of no difference, and the degrees of freedom of the error.

    Args:
        own: of each example in the difference, which is their sum.
        of_examples, of_seeds: the two variances of the difference.
    """
    n, value = len(own), float(own.sum())
    if n < 2 or not np.any(own):
        return 1.0, 0.0
    squares = np.square(own / np.abs(own).max())
    counted = float(squares.sum() ** 2 / np.square(squares).sum()) - 1
    if counted < 1e-6:  # One example makes the whole difference.
        return 1.0, 0.0
    under = of_examples + value**2 / n
    total = under + of_seeds
    degrees = total**2 / (under**2 / counted + of_seeds**2 / max(1, seeds - 1))
    return float(2 * special.stdtr(degrees, -abs(value) / np.sqrt(total))), float(degrees)


def _guarded(own: np.ndarray, most: float) -> float:
    """The p-value with one example more, which differs by `most` the other way; 0 for none."""
    value = float(own.sum())
    if not most:
        return 0.0
    if abs(value) <= most:
        return 1.0
    more = np.append(own, -np.sign(value) * most)
    spread = float(np.square(more - more.mean()).sum())
    return _test(more, spread, 0.0, 1)[0]


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
    reach = np.sqrt(growth) * special.stdtrit(degrees, (1 + LEVEL) / 2)
    tail = float(special.ndtr(-reach))
    low, high = np.quantile(shown, [tail, 1 - tail])
    return float(low), float(high)
