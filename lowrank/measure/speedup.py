"""Speed-up of one model or kernel over another, from interleaved times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# A clock that did not move counts as this many seconds, so that ratios are finite.
LEAST_SECONDS = 1e-12


@dataclass(frozen=True)
class Speedup:
    """The median of measured ratios, and a confidence interval of the true median.

    Attributes:
        median: of the measured ratios; low ≤ median ≤ high.
        low: a lower bound of the true median, with a confidence of 95 %.
        high: an upper bound of it, with a confidence of 95 %; so the interval has 90 %.
    """

    median: float
    low: float
    high: float


def paired_speedup(reference: Sequence[float], own: Sequence[float]) -> Speedup:
    """The speed-up of `own` over `reference`, from the ratios of neighbouring times.

    What slows both of a pair leaves their ratio alone, and one disturbed pair moves no median.

    Args:
        reference, own: seconds, as many of each and at least one; the n-th of both were taken one
            right after the other.

    Raises:
        ValueError: there are not as many of each, or there is none.
    """
    if len(reference) != len(own) or not len(own):
        raise ValueError(
            f"{len(reference)} and {len(own)} times are no pairs: give as many of each, and one "
            "of each at least"
        )
    ratios = [r / max(o, LEAST_SECONDS) for r, o in zip(reference, own, strict=True)]
    reversed_ratios = [-ratio for ratio in ratios]
    return Speedup(statistics.median(ratios), surely_above(ratios), -surely_above(reversed_ratios))


def surely_above(values: Sequence[float]) -> float:
    """A lower bound of the median of the distribution of these values, with a confidence of 95 %.

    An order statistic, by the binomial test of the sign: of n draws each is below the median with
    probability 1/2. It needs no assumption on the distribution, and approaches the median with more
    draws, as quartiles do not. Of fewer than 5 draws it is the least, with less confidence.
    """
    count, sure = len(values), 0
    below = _chance(count, 0)  # that at most `sure` of the coins show heads
    while below <= 0.05:
        sure += 1
        below += _chance(count, sure)
    return sorted(values)[max(0, sure - 1)]


def _chance(coins: int, heads: int) -> float:
    """The probability that exactly this many of this many fair coins show heads."""
    ways = math.lgamma(coins + 1) - math.lgamma(heads + 1) - math.lgamma(coins - heads + 1)
    return math.exp(ways - coins * math.log(2))
