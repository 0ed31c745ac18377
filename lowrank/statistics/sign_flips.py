"""The test of paired differences by flipping their signs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import optimize, special

# Up to this many differences all sums are counted, from the 32,768 of each half of them.
FEW = 30
# Of more, the largest whose signs are counted.
LARGEST = 4
# Where they have less than this share of the sum of squares, the approximation needs no help.
LITTLE = 0.1
# How many steps the smallest difference may have for sums to be counted on a grid, and any other.
PARTS = (1, 2, 3, 4)
MOST_STEPS = 60


def sign_flips(differences: np.ndarray) -> float:
    """The two-sided p-value of the hypothesis that paired differences are as likely of either sign.

    If two models do not differ, either could have had the outcome of the other on each example, so
    the sum of the differences is one of 2^m equally likely sums. The p-value is the share of these
    that are as far from 0. It is exact where differences are multiples of one step, as of models
    that are right or wrong on each example (of one network this is the exact test of McNemar,
    Psychometrika 12(2), 1947), and for up to 30 differences. Of more, the signs of the four largest
    are counted and the tail of the others is that of a saddlepoint approximation, which holds far
    out, where the normal law does not. Measured on 31 to 34 differences, p-values are within 2 % of
    the exact ones for normal differences, and within 10 % for those of Cauchy's law.

    Args:
        differences: shape (n,); those of 0 do not count.

    Returns:
        The p-value, 1 if there are no differences.

    Source: Fisher, The Design of Experiments, 1935, section 21; Robinson, JRSS B 44(1), 1982
    (saddlepoint).
    """
    differences = np.asarray(differences, dtype=float)
    apart = np.abs(differences)
    # What rounding left of examples on which two models are alike.
    kept = apart > 1e-9 * apart.max(initial=0.0)
    apart, total = apart[kept], abs(float(differences[kept].sum()))
    if not len(apart):
        return 1.0
    for part in PARTS:
        step = float(apart.min()) / part
        steps = np.round(apart / step)
        if steps.max() < MOST_STEPS and np.abs(apart / step - steps).max() < 1e-6:
            return _on_a_grid(steps.astype(int), round(total / step))
    apart, total = apart / apart.max(), total / float(apart.max())
    return (_of_all_sums if len(apart) <= FEW else _approximated)(apart, total)


def _on_a_grid(steps: np.ndarray, total: int) -> float:
    """From the law of the sum of the positive ones, in steps."""
    law = np.ones(1)
    for step, count in zip(*np.unique(steps, return_counts=True), strict=True):
        positive = np.arange(count + 1)
        part = np.zeros(step * count + 1)
        ways = special.gammaln(positive + 1) + special.gammaln(count - positive + 1)
        part[::step] = np.exp(special.gammaln(count + 1) - ways - count * math.log(2))
        law = np.convolve(law, part)
    return min(1.0, 2 * float(law[(total + int(steps.sum())) // 2 :].sum()))


def _of_all_sums(apart: np.ndarray, total: float) -> float:
    """All sums are one of each half of the differences; how many reach the total is looked up."""
    least = total - 1e-9 * float(apart.sum())
    one, other = (np.sort(_sums(half)) for half in (apart[::2], apart[1::2]))
    reached = len(one) - np.searchsorted(one, least - other)
    return min(1.0, 2 * float(reached.mean()) / len(one))


def _sums(apart: np.ndarray) -> np.ndarray:
    """All 2^m sums of m differences of either sign."""
    sums = np.zeros(1)
    for one in apart:
        sums = np.concatenate([sums - one, sums + one])
    return sums


def _approximated(apart: np.ndarray, total: float) -> float:
    """The signs of the largest differences are counted where these make much of the sum."""
    order = np.argsort(-apart)
    squares = np.square(apart)
    counted = order[:LARGEST]
    if squares[counted].sum() < LITTLE * squares.sum():
        counted = order[:0]
    rest = np.delete(apart, counted)
    tails = [_tail(rest, total - one) for one in _sums(apart[counted])]
    return min(1.0, max(2 * float(np.mean(tails)), 2.0 ** (1 - len(apart))))


def _tail(apart: np.ndarray, total: float) -> float:
    """The probability that the sum of differences of either sign reaches a total, approximated.

    Source: Lugannani & Rice, Advances in Applied Probability 12(2), 1980.
    """
    if total < 0:
        return 1 - _tail(apart, -total)
    if total >= apart.sum() * (1 - 1e-9):
        return 2.0 ** -len(apart) if total <= apart.sum() * (1 + 1e-9) else 0.0
    if total <= 1e-6 * math.sqrt(float(np.square(apart).sum())):
        return 0.5

    def slope(at: float) -> float:
        return float((apart * np.tanh(at * apart)).sum()) - total

    high = 1.0
    while slope(high) < 0:
        high *= 2
    at: Any = optimize.brentq(slope, 0.0, high, xtol=1e-12)
    scaled = at * apart
    # log cosh without overflow.
    cumulant = float((scaled + np.log1p(np.exp(-2 * scaled)) - math.log(2)).sum())
    curvature = float(np.square(apart / np.cosh(np.minimum(scaled, 300))).sum())
    root = math.sqrt(max(0.0, 2 * (at * total - cumulant)))
    tail = float(special.ndtr(-root))
    if root > 1e-3:
        density = math.exp(-(root**2) / 2) / math.sqrt(2 * math.pi)
        tail += density * (1 / (at * math.sqrt(curvature)) - 1 / root)
    return min(1.0, max(tail, 0.0))
