"""The words and the table of a comparison of methods."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lowrank.metrics.metric import DIGITS, NONE, UNITS, Metric
from lowrank.reporting.captions import in_unit, subject
from lowrank.reporting.evidence import Tested
from lowrank.reporting.table import Table, no_bold
from lowrank.statistics.interpolation import SAME

# The probability of a false alarm.
ALPHA = 0.05
# More examples than these are not counted.
MOST_NEEDED = 10_000_000
# Beyond the digits of other tables.
MOST_DIGITS = 6
# The tests, by their names in CSV, in the words of the caption.
TESTS = {
    "McNemar, exact": "the exact test of McNemar",
    "sign flips": "the paired sign-flip test",
    "t": "Student's t over the examples where a value is interpolated",
    "t over seeds": "Student's t over examples and seeds from five seeds on",
}


@dataclass(frozen=True)
class Verdict:
    """What the test examples say of two methods at one size.

    Attributes:
        first, second: the methods.
        at: the size.
        measured: of the first and of the second, whether it was measured at that size, and not
            interpolated between two measured ones.
        tested: the difference first − second.
        sign: 1 if higher is better, else −1.
        p: the p-value, corrected by Holm for all tests of the comparison.
        needed: the number of test examples that would tell a difference of this size.
    """

    first: str
    second: str
    at: float
    measured: tuple[bool, bool]
    tested: Tested
    sign: int
    p: float
    needed: float

    @property
    def better(self) -> str | None:
        """The method that is better; None if they cannot be told apart."""
        if not self.p < ALPHA:
            return None
        return self.first if self.sign * self.tested.difference.value > 0 else self.second


def sentences(
    verdicts: Sequence[Verdict],
    shown: Metric,
    small: Metric,
    examples: int,
    apart: Sequence[tuple[str, str]] = (),
) -> tuple[str, ...]:
    """One sentence for each pair of methods: who is better where, and where nobody can tell.

    Args:
        apart: pairs without a size in common.
    """
    found = []
    pairs = itertools.groupby(verdicts, key=lambda one: (one.first, one.second))
    for (first, second), group in pairs:
        own = list(group)
        said = [_said(one, shown, small) for one in own]
        about = f"{networks(own)}, {examples:,} examples"
        found.append(f"{first} and {second} ({about}): {'; '.join(said)}.")
    if apart:
        pairs_text = ", ".join(f"{first} and {second}" for first, second in apart)
        found.append(f"No {small.heading} in common: {pairs_text}.")
    return tuple(found)


def networks(verdicts: Sequence[Verdict]) -> str:
    """What the claims of verdicts are about: these networks, or other seeds too."""
    counts = [one.tested.seeds for one in verdicts]
    fewest, seeds = min(counts), max(counts)
    shown = f"{seeds}" if fewest == seeds else f"{fewest} to {seeds}"
    if all(one.tested.difference.over_seeds for one in verdicts):
        return f"over {shown} seeds, and for others like them"
    if seeds == 1:
        return "for this network"
    if max(one.tested.networks for one in verdicts) > 1:
        return f"for these {shown} networks"
    return f"for these {shown} compressions of one network"


def table(
    frame: Any,
    verdicts: Sequence[Verdict],
    shown: Metric,
    small: Metric,
    examples: int,
    resamples: int,
) -> Table:
    """A row for each pair of methods at each size; the better of two is bold."""
    import pandas as pd

    values = pd.DataFrame([_values(one, shown, small) for one in verdicts])
    cells = pd.DataFrame([_cells(one, shown, small) for one in verdicts])
    best = no_bold(cells)
    for name in ("first", "second"):
        best[name] = [one.better == getattr(one, name) for one in verdicts]
    tests = dict.fromkeys(sorted(map(_test, verdicts), key=list(TESTS).index))
    used = " or ".join(TESTS[name] for name in tests)
    about = networks(verdicts)
    is_drawn = any(not one.tested.difference.over_seeds for one in verdicts)
    drawn = f" ({resamples:,} resamples of the examples)" if is_drawn else ""
    caption = (
        f"{subject(frame)}: {in_unit(shown)} of two methods at one size; {small.words}. The better "
        f"of two is bold where the difference is real (p < {ALPHA:g}). ~: interpolated between two "
        f"measured sizes; sizes within {100 * (SAME - 1):.0f} % are one. Difference: first − "
        f"second ± its standard error, with its 95 % interval, not corrected{drawn}. "
        f"p: {used} ({about}; {examples:,} examples), corrected by Holm "
        f"for {len(verdicts)} test{'' if len(verdicts) == 1 else 's'}. Would tell: the "
        "examples that would tell a difference of this size, four times of five."
    )
    return Table(values, cells, best, caption, labels=3)


def _values(one: Verdict, shown: Metric, small: Metric) -> dict[str, Any]:
    found = one.tested.difference
    return {
        "first": one.first,
        "second": one.second,
        small.name: one.at,
        "first_interpolated": not one.measured[0],
        "second_interpolated": not one.measured[1],
        f"first_{shown.name}": found.first,
        f"second_{shown.name}": found.second,
        "difference": found.value,
        "difference_se": found.error,
        "difference_se_of_seeds": found.between if found.over_seeds else float("nan"),
        "difference_low": found.low,
        "difference_high": found.high,
        "p": found.p,
        "p_holm": one.p,
        "test": _test(one),
        "seeds": one.tested.seeds,
        "networks": one.tested.networks,
        "over_seeds": found.over_seeds,
        "better": one.better or "",
        "examples_needed": one.needed,
    }


def _test(one: Verdict) -> str:
    """The name of the test of a verdict, of those in `TESTS`."""
    if one.tested.difference.over_seeds:
        return "t over seeds"
    if one.tested.exact:
        return "McNemar, exact"
    return "sign flips" if one.tested.difference.by_signs else "t"


def _cells(one: Verdict, shown: Metric, small: Metric) -> dict[str, str]:
    found = one.tested.difference
    marks = ["" if measured else "~" for measured in one.measured]
    text = partial(_text, shown, more=_more_digits(shown, found.error))
    return {
        "first": one.first,
        "second": one.second,
        small.heading: _size(one.at, small),
        "value of first": f"{marks[0]}{text(found.first)}",
        "value of second": f"{marks[1]}{text(found.second)}",
        "difference": text(found.value, found.error),
        "95 % interval": f"{text(found.low)} to {text(found.high)}"
        if found.low == found.low
        else NONE,
        "p": p_text(one.p),
        "would tell": _needed(one.needed) or NONE,
    }


def _size(at: float, small: Metric) -> str:
    return f"{at:.3g}{UNITS[small.scale][1] if small.scale in UNITS else ''}"


def p_text(p: float) -> str:
    """A p-value with the digits that mean something."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _said(one: Verdict, shown: Metric, small: Metric) -> str:
    found, at = one.tested.difference, _size(one.at, small)
    amount = _amount(shown, abs(found.value), found.error)
    if one.better is not None:
        p = p_text(one.p)
        return f"{one.better} is better by {amount} at {at} (p {p if p[0] == '<' else f'= {p}'})"
    if found.error == 0 and found.value == 0:
        return f"at {at} they are alike on every example"
    if found.p < ALPHA:
        amount += f", p = {p_text(found.p)} alone and {p_text(one.p)} among all tests"
    needed = _needed(one.needed)
    more = f"; {needed} examples would tell" if needed else ""
    if found.over_seeds and not needed and found.value:
        more = "; more seeds are needed to tell"
    return f"at {at} they cannot be told apart ({amount}{more})"


def _amount(shown: Metric, value: float, error: float) -> str:
    """A difference ± its error, in points for shares."""
    percent = shown.scale == "percent"
    factor = 100 if percent else 1
    digits = DIGITS[shown.scale] + _more_digits(shown, error)
    if error != error:
        return f"{factor * value:.{digits}f}{' points' if percent else ''}"
    text = f"{factor * value:.{digits}f} ± {factor * error:.{digits}f}"
    return f"{text} points" if percent else text


def _text(shown: Metric, mean: float, spread: float = float("nan"), more: int = 0) -> str:
    """`Metric.text`, with so many digits more where there are some."""
    if not more or mean != mean:
        return shown.text(mean, spread)
    factor, digits = 100 if shown.scale == "percent" else 1, DIGITS[shown.scale] + more
    text = f"{factor * mean:.{digits}f}"
    return text if spread != spread else f"{text} ± {factor * spread:.{digits}f}"


def _more_digits(shown: Metric, error: float) -> int:
    """The digits that a standard error needs to be no zero, beyond those of a metric's tables."""
    if not 0 < error < math.inf:
        return 0
    factor = 100 if shown.scale == "percent" else 1
    needed = math.ceil(-math.log10(factor * error))
    return min(max(0, needed - DIGITS[shown.scale]), MOST_DIGITS)


def _needed(examples: float) -> str:
    """A number of examples to two digits; empty where no number would do."""
    if examples == float("inf") or examples != examples:
        return ""
    if examples > MOST_NEEDED:
        return f"more than {MOST_NEEDED:,}"
    return f"about {float(f'{examples:.2g}'):,.0f}"
