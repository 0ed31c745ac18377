"""Interpolation along a curve of quality against size, on a logarithmic axis of size."""

from __future__ import annotations

import numpy as np

# Sizes within this factor of each other are one size: 4.32 and 4.33 bits.
SAME = 1.01


def is_same_size(first: float, second: float) -> bool:
    """Whether two sizes are within 1 % of each other."""
    return max(first, second) <= SAME * min(first, second)


def shares(sizes: np.ndarray, at: float) -> np.ndarray:
    """The share of each point of a curve in its value at a size, shape (points,).

    1 for a point of that size (`is_same_size`). Else its two neighbours share, linearly in the
    logarithm of the size. The value is the sum of shares times the values of the points, so that
    interpolation in each resample is a product of matrices too.

    Args:
        sizes: of the points, above 0, in any order.
        at: a size.

    Raises:
        ValueError: `at` lies outside the sizes: nothing is extrapolated.
    """
    sizes = np.asarray(sizes, dtype=float)
    found = np.zeros(len(sizes))
    order = np.argsort(sizes, kind="stable")
    nearest = int(np.argmin(np.abs(np.log(sizes / at))))
    if is_same_size(float(sizes[nearest]), at):
        found[nearest] = 1.0
        return found
    above = int(np.searchsorted(sizes[order], at))
    if above in (0, len(sizes)):
        raise ValueError(
            f"size {at:g} lies outside the measured ones, {sizes.min():g} to {sizes.max():g}"
        )
    left, right = order[above - 1], order[above]
    share = np.log(at / sizes[left]) / np.log(sizes[right] / sizes[left])
    found[left], found[right] = 1 - share, share
    return found


def common_sizes(first: np.ndarray, second: np.ndarray) -> list[float]:
    """The sizes of the points of two curves at which both have a value, smallest first.

    Those of the points that lie in the range of both curves; of two that are the same size
    (`is_same_size`) the first curve's.
    """
    low = max(np.min(first), np.min(second)) / SAME
    high = min(np.max(first), np.max(second)) * SAME
    found: list[float] = []
    for size in (*np.unique(first), *np.unique(second)):
        if low <= size <= high and not any(is_same_size(size, other) for other in found):
            found.append(float(size))
    return sorted(found)
