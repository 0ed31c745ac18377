"""The verdict on a published figure, from ours, its error and what the entry allows."""

from __future__ import annotations

import math

from experiments.reproduction.entry import Entry, Run, Value
from experiments.reproduction.ours import Ours

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
UNDECIDED, DISPUTED = "undecided", "disputed"
NOT_RUN, CANNOT = "not run yet", "cannot be run here"
AS_SET, NOT_AS_SET = "as set", "not as set"
OTHERS_NEAR, OTHERS_FAR = "near by others' weights", "not near by others' weights"
BESIDE = "ours alone"
# Verdicts on what one who reproduces sets, and on weights that somebody else trained.
SETTINGS = {REPRODUCED: AS_SET, NOT_REPRODUCED: NOT_AS_SET, UNDECIDED: NOT_AS_SET}
OF_OTHERS = {REPRODUCED: OTHERS_NEAR, NOT_REPRODUCED: OTHERS_FAR, UNDECIDED: UNDECIDED}
# What rounding of numbers in binary may add to a difference, as a share.
ROUNDING = 1e-9


def allowed(value: Value, published: float) -> float:
    """The largest difference at which a figure counts as reproduced."""
    return value.tolerance * (abs(published) if value.relative else 1)


def verdict(value: Value, run: Run, published: float, ours: Ours, decimals: int) -> str:
    """The verdict on a figure that ours stands beside.

    Ours lies within its 95 % interval (`Ours.reach`), whose ends are rounded to the digits that are
    printed. Where all of it is within what is allowed, the figure is reproduced; where nothing of
    it is, it is not. So each of the two is wrong with a probability of about 2.5 % at most, where
    numbers of networks scatter as those of the normal law. Where all networks gave the same number,
    as shares of few trials do, the interval has no width and the verdict no such bound.

    Args:
        decimals: that are printed, as of `decimals`.
    """
    reach = 0.0 if value.setting else ours.reach(value.other_examples)
    limit = allowed(value, published) + ROUNDING * max(abs(published), abs(ours.mean))
    low, high = (
        (round(ours.mean + sign * reach, decimals) for sign in (-1, 1))
        if (math.isfinite(reach))
        else (-math.inf, math.inf)
    )
    below, above = published - low, high - published
    if value.at_most:
        farthest, nearest = above, low - published
    else:
        farthest = max(below, above)
        nearest = max(0.0, -below, -above)
    if farthest <= limit:
        found = REPRODUCED
    else:
        found = UNDECIDED if nearest <= limit else NOT_REPRODUCED
    if value.setting:
        return SETTINGS[found]
    return OF_OTHERS[found] if run.weights_of else found


def decimals(entry: Entry, column: str, published: float) -> int:
    """The number of decimals to which a figure of a column is printed.

    YAML drops final zeros. So a figure has as many decimals and as many significant digits as any
    of its column, the less of both. It has never fewer than the tolerance has: a share of 0.7 is
    not rounded to the 1 of a picture.
    """
    figures = [row.published.get(column) for row in entry.rows.values()]
    printed = [_digits(one) for one in figures if one is not None]
    most_decimals = max(after for after, _ in printed)
    most_digits = max(significant for _, significant in printed)
    first = math.floor(math.log10(abs(published))) if published else 0
    of_tolerance = math.ceil(-math.log10(allowed(entry.values[column], published) or 1))
    return max(0, of_tolerance, min(most_decimals, most_digits - 1 - first))


def _digits(figure: float) -> tuple[int, int]:
    """The decimals and the significant digits with which a number is written, without zeros."""
    mantissa, _, exponent = f"{abs(figure):.10e}".partition("e")
    significant = len(mantissa.rstrip("0").replace(".", ""))
    return max(0, significant - 1 - int(exponent)), significant


def why_undecided(ours: Ours) -> str:
    """The reason why a figure is undecided that more runs would remove; empty for none."""
    if ours.exact or ours.count != 1:
        return ""
    told = "the error over its examples stands in for the spread over networks, which is"
    told = told if ours.error == ours.error else "the spread over networks is"
    return f"it is one network of {max(ours.asked, 1)}: {told} not known"
