"""Published orders of methods beside ours, pair by pair, tested on the same examples."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.reproduction.compare import Frames, RowVerdict, without
from experiments.reproduction.entry import Entry, Value
from experiments.reproduction.ordering import Ordering, tuned
from experiments.reproduction.ours import (
    NAN,
    evaluated,
    matching,
    measured,
    p_value,
    selected,
)
from experiments.reproduction.verdict import UNDECIDED
from lowrank.records.repeats import outcome_numbers
from lowrank.statistics.hypotheses import holm

if TYPE_CHECKING:
    import pandas as pd

    from lowrank.metrics.metric import Metric

SAME_ORDER, OTHER_ORDER = "same order", "other order"
# Of the tests of all pairs of an order together, after Holm's correction.
ALPHA = 0.05


@dataclass(frozen=True)
class OrderedPair:
    """Two methods of an order, the one that is published as better first.

    Attributes:
        better, worse: their names.
        gain: by how much the first is better here; below 0 it is worse.
        p: the p-value of no difference, corrected for all pairs of the order.
    """

    better: str
    worse: str
    gain: float
    p: float

    @property
    def agrees(self) -> bool | None:
        """Whether the better one is better here; None where it cannot be told."""
        return self.gain > 0 if self.p < ALPHA and self.gain else None


@dataclass(frozen=True)
class OrderVerdict:
    """An order of methods, published for one model, beside ours of another.

    Attributes:
        settings: method → the value of the setting that is tuned, where one is, and whether it is
            the first or the last of those that were tried.
    """

    name: str
    column: str
    members: tuple[RowVerdict, ...]
    pairs: tuple[OrderedPair, ...]
    verdict: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def agreeing(self) -> int:
        """How many pairs are told and agree."""
        return sum(pair.agrees is True for pair in self.pairs)


def orderings(entry: Entry, frames: Frames) -> Iterator[OrderVerdict]:
    """Each published order beside ours; errors as of `experiments.reproduction.compare.rows`."""
    for name, one in entry.orderings.items():
        value, frame = entry.values[one.value], frames[entry.name_of(entry.run_of(one))]
        selections = _selections(name, one, frame)
        members = [
            _member(entry, one, method, selections[method], frame, f"orderings.{name}.{method}")
            for method in one.of
        ]
        members.sort(key=lambda member: _sign(value) * member.published, reverse=True)
        held = [member for member in members if member.ours.count]
        pairs: tuple[OrderedPair, ...] = ()
        if frame is not None and len(held) > 1:
            pairs = _pairs(entry, one, frame, held, selections)
        verdict = judged_order(entry, one, pairs)
        settings = {m: _setting(one, m, s, frame) for m, s in selections.items() if one.tuned in s}
        yield OrderVerdict(name, one.value, tuple(members), pairs, verdict, settings)


def _selections(name: str, one: Ordering, frame: pd.DataFrame | None) -> dict[str, dict[str, Any]]:
    """Method → the values by which its point is found."""
    if frame is None:
        return {method: member.select for method, member in one.of.items()}
    found = {}
    for method, member in one.of.items():
        place = f"orderings.{name}.{method}"
        rows = matching(frame, member.select, place)
        found[method] = tuned(one, member.select, rows, place)
    return found


def _setting(one: Ordering, method: str, select: dict[str, Any], frame: Any) -> str:
    """What was chosen for a method, and whether a value beyond those tried may be better."""
    tried: Any = matching(frame, one.of[method].select, method)[one.tuned]
    chosen = select[one.tuned]
    if not isinstance(chosen, Number):
        return f"{one.tuned}={chosen}"
    ends = {tried.min(): "the smallest", tried.max(): "the largest"}
    at_end = f", {ends[chosen]} of {tried.nunique()} tried" if chosen in ends else ""
    return f"{one.tuned}={chosen:g}{at_end}"


def judged_order(entry: Entry, one: Ordering, pairs: Sequence[OrderedPair]) -> str:
    """The verdict on an order from its measured pairs: the same if all are told and agree."""
    if not pairs:
        return without(entry, one)[0]
    agree = [pair.agrees for pair in pairs]
    if False in agree:
        return OTHER_ORDER
    return SAME_ORDER if all(agree) else UNDECIDED


def _member(
    entry: Entry, one: Ordering, method: str, select: dict[str, Any], frame: Any, place: str
) -> RowVerdict:
    value, run = entry.values[one.value], entry.run_of(one)
    ours = measured(run, frame, select, value, place)
    dense = NAN
    if ours.count and value.dense:
        dense = measured(run, frame, select, value, place, value.dense).mean
    verdict, why = ("", "") if ours.count else without(entry, one)
    published = one.of[method].published
    return RowVerdict(method, one.value, published, ours, NAN, verdict, why, dense)


def _pairs(
    entry: Entry,
    one: Ordering,
    frame: pd.DataFrame,
    held: Sequence[RowVerdict],
    selections: Mapping[str, dict[str, Any]],
) -> tuple[OrderedPair, ...]:
    value, exact = entry.values[one.value], entry.run_of(one).exact
    found = {
        member.place: selected(frame, selections[member.place], f"orderings.{member.place}")
        for member in held
    }
    tests = _PairedTests(value, frame, found, exact)
    claimed = [
        (better.place, worse.place)
        for better, worse in itertools.combinations(held, 2)
        if better.published != worse.published
    ]
    tested = [tests.test(better, worse) for better, worse in claimed]
    corrected = holm(np.array([p for _, p in tested]))
    return tuple(
        OrderedPair(*names, _sign(value) * difference, float(p))
        for names, (difference, _), p in zip(claimed, tested, corrected, strict=True)
    )


class _PairedTests:
    """Tests of methods whose outcomes are paired by seeds, and by examples where records hold them.

    Args:
        found: method → the rows of its point.
        exact: whether one seed is all there is.
    """

    def __init__(
        self, value: Value, frame: pd.DataFrame, found: dict[str, pd.DataFrame], exact: bool
    ) -> None:
        self._value, self._found, self._exact = value, found, exact
        used = sorted({row for rows in found.values() for row in rows.index})
        self._evidence = _evidence(value, frame.loc[used])

    def test(self, first: str, second: str) -> tuple[float, float]:
        """The mean difference first − second, and the p-value of none; NaN where none is known."""
        rows = [self._found[name] for name in (first, second)]
        by_seed = [dict(zip(one["seed"], one.index, strict=True)) for one in rows]
        seeds = [seed for seed in by_seed[0] if seed in by_seed[1]]
        if not seeds:
            means: list[Any] = [evaluated(one, self._value.ours, first).mean() for one in rows]
            return float(means[0]) - float(means[1]), NAN
        apart = self._differences(rows, by_seed, seeds)
        m, difference = len(apart), float(np.mean(apart))
        of_networks = float(np.std(apart, ddof=1)) / math.sqrt(m) if m > 1 else 0.0
        if self._evidence is None:
            known = m > 1 or self._exact or len(seeds) > 1
            return difference, p_value(difference, of_networks, m - 1, 0.0) if known else NAN
        readings = [{seed: {held[seed]: 1.0} for seed in seeds} for held in by_seed]
        tested = self._evidence.test(*readings).difference
        fixed = math.sqrt(max(0.0, tested.error**2 - tested.between**2))
        # From the scale of the metric to that of the expression: about right where this is no
        # multiple of it, and too wide where the difference of the metric is near 0.
        fixed *= abs(difference / tested.value) if tested.value else 1.0
        # The test of examples is sharper for the networks at hand; both must tell.
        together = p_value(difference, of_networks, m - 1, fixed) if m > 1 else 0.0
        return difference, max(tested.p, together)

    def _differences(self, rows: Any, by_seed: Any, seeds: Any) -> list[float]:
        """The differences of the seeds that gave numbers of their own."""
        kinds = [outcome_numbers(one) for one in rows]
        values: list[Any] = [evaluated(one, self._value.ours, "orderings") for one in rows]
        found: dict[Any, float] = {}
        for seed in seeds:
            at = [held[seed] for held in by_seed]
            key = tuple(kind[row] for kind, row in zip(kinds, at, strict=True))
            found.setdefault(key, float(values[0][at[0]] - values[1][at[1]]))
        return list(found.values())


def _evidence(value: Value, rows: pd.DataFrame) -> Any:
    """The outcomes per example behind a value, None where it is no average or there are none."""
    from lowrank.reporting.evidence import evidence
    from lowrank.reporting.examples import have_outcomes

    metric = _metric(value, rows)
    return evidence(rows, metric) if metric and have_outcomes(rows).all() else None


def _metric(value: Value, rows: pd.DataFrame) -> Metric | None:
    """The metric of the task that a value is an expression of, if it averages over examples."""
    from lowrank.records.columns import metrics_of

    if "metrics" not in rows:
        return None
    words = set(re.findall(r"\w+", value.ours))
    named = [metric for name, metric in metrics_of(rows).items() if name in words]
    return named[0] if len(named) == 1 and named[0].average else None


def _sign(value: Value) -> int:
    return -1 if value.better == "lower" else 1
