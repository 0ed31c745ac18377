"""How many times faster one thing is than another, from times of the two taken in turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# A clock that did not move says that less than this many seconds went by.
LEAST_SECONDS = 1e-12


@dataclass(frozen=True)
class Speedup:
    """A median of ratios, between two numbers that the ratios' own median lies between.

    Attributes:
        median: of the ratios that were measured; low ≤ median ≤ high.
        low: what the median of all ratios that could be measured is above, with a confidence of
            95 %.
        high: what it is below, with the same; between the two it thus lies with 90 %.
    """

    median: float
    low: float
    high: float


def paired_speedup(reference: Sequence[float], own: Sequence[float]) -> Speedup:
    """How many times faster `own` is than `reference`: the ratios of neighbouring times.

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
    """A number below the median that these were drawn around, with a confidence of 95 %.

    So many of n draws fall below a median as heads of n fair coins: an order statistic that needs
    no distribution, and comes nearer to the median with every round, as quartiles do not. Of fewer
    than 5 it is the least, and less sure.
    """
    count, sure = len(values), 0
    below = _chance(count, 0)  # that at most `sure` of the coins show heads
    while below <= 0.05:
        sure += 1
        below += _chance(count, sure)
    return sorted(values)[max(0, sure - 1)]


def _chance(coins: int, heads: int) -> float:
    """That just so many of so many fair coins show heads."""
    ways = math.lgamma(coins + 1) - math.lgamma(heads + 1) - math.lgamma(coins - heads + 1)
    return math.exp(ways - coins * math.log(2))
