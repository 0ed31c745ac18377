"""Corrections for many tests at once, and the examples that a test needs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from scipy import special

Value = TypeVar("Value")


def holm(p: np.ndarray) -> np.ndarray:
    """The p-values of several tests, corrected so that one below α is a false alarm with
    probability at most α for all of them together, whatever depends on what.

    Args:
        p: p-values, shape (tests,); NaN for a test that could not be made, which does not count.

    Returns:
        The corrected p-values in the same order, none below its own; NaN stays.

    Source: Holm, Scandinavian Journal of Statistics 6(2), 1979.
    """
    p = np.asarray(p, dtype=float)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    left = np.arange(len(made), 0, -1)
    corrected = np.full(p.shape, np.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(left * p[order]))
    return corrected


def one_sided(p: float, value: float) -> float:
    """The p-value that a difference is not above 0, of its value and the two-sided p-value."""
    return p / 2 if value > 0 else 1 - p / 2


def of_pairs(values: Sequence[Value], no_better: Callable[[Value, Value], float]) -> np.ndarray:
    """The one-sided p-values of all pairs of values, as `below_the_best` takes them.

    Args:
        no_better: the p-value that the first value is no better than the second; that of the other
            side is 1 less it.
    """
    p = np.full((len(values), len(values)), np.nan)
    for row, column in itertools.combinations(range(len(values)), 2):
        p[row, column] = no_better(values[column], values[row])
        p[column, row] = 1 - p[row, column]
    return p


def below_the_best(p: np.ndarray) -> np.ndarray:
    """The p-values of several values that each is as good as every other, corrected.

    The best of a sample was chosen by the same numbers as it is tested by, so a comparison of the
    others with it alone says too often that one is worse. Here each value is compared with all
    others, of which the best is one, whichever that is (Bonferroni); and the values are corrected
    by Holm. So with probability 1 − α or more none of the truly best values is below α.

    Args:
        p: one-sided p-values that value `column` is no better than value `row`, shape (k, k); NaN
            where the two were not compared, as of each with itself.

    Returns:
        The p-values, shape (k,); NaN for what was compared with none.

    Source: Hsu, The Annals of Statistics 9(5), 1981 (comparisons with the best); Holm, Scandinavian
    Journal of Statistics 6(2), 1979.
    """
    compared = ~np.isnan(p)
    least = np.where(compared, p, np.inf).min(axis=1, initial=np.inf)
    others = compared.sum(axis=1)
    return holm(np.where(others > 0, np.minimum(1.0, others * np.minimum(1.0, least)), np.nan))


def examples_needed(
    n: int,
    difference: float,
    error: float,
    between: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """The number of examples at which a two-sided test would tell such a difference.

    The error over examples shrinks as 1/√n, that between networks (`between`) does not: where it
    alone hides the difference, no number of examples is enough.

    Args:
        n: examples that gave `error`.
        difference: the true difference, assumed to be this.
        error: the standard error over examples of the difference.
        between: the standard error that comes from networks, 0 if they are fixed.
        alpha: probability of a false alarm; over the number of tests, where there are several.
        power: probability of telling the difference.

    Returns:
        A number of examples; infinite for a difference of 0, or where more networks are needed.

    Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2.
    """
    reach = float(special.ndtri(1 - alpha / 2) + special.ndtri(power))
    allowed = (difference / reach) ** 2 - between**2
    return n * error**2 / allowed if allowed > 0 else math.inf


def fewest_examples(alpha: float = 0.05) -> int:
    """The fewest examples at which a two-sided test of signs may be below `alpha`.

    That all n examples speak for the same of two models has the p-value 2^(1−n).

    Args:
        alpha: as of `examples_needed`.
    """
    return math.ceil(1 - math.log2(alpha))


def examples_needed_by(n: int, p: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The number of examples at which a test that had the p-value `p` of `n` would tell.

    As `examples_needed` for fixed networks, from the test itself: more than `n` where p > `alpha`.

    Args:
        n: examples that gave `p`.
        p: two-sided p-value, not corrected.
        alpha, power: as of `examples_needed`.

    Returns:
        A number of examples; infinite for a p-value of 1.
    """
    seen = float(special.ndtri(1 - p / 2))
    reach = float(special.ndtri(1 - alpha / 2) + special.ndtri(power))
    return n * (reach / seen) ** 2 if seen > 0 else math.inf
