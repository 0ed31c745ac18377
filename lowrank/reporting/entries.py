"""The entries of a summary: which level of a method, and whether it can be told from the best."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import Metric
from lowrank.records.repeats import POINT
from lowrank.reporting.evidence import Reading, evidence
from lowrank.reporting.examples import have_outcomes
from lowrank.reporting.verdicts import ALPHA
from lowrank.statistics.hypotheses import below_the_best, of_pairs

if TYPE_CHECKING:
    import pandas as pd

DAGGER = " †"
# The name of an entry, as its method, and what it is compared in, as a column.
Place = tuple[Any, Any]


@dataclass(frozen=True)
class ChosenLevel:
    """The chosen level of a method at a size.

    Attributes:
        point: its row among the points; None if no level has a value.
        chosen_on: the split by which it was chosen, ``validation`` or ``test``; empty if there was
            no choice.
    """

    point: Hashable | None
    chosen_on: str

    @property
    def dagger(self) -> str:
        """The mark of an entry that was chosen on the split on which it is shown."""
        return DAGGER if self.chosen_on == "test" else ""


@dataclass(frozen=True)
class Mark:
    """Whether an entry is bold.

    Attributes:
        is_best: whether it is the best of its column, or cannot be told from it.
        p: corrected p-value that no other of the column is better; NaN if not tested.
        is_tested: whether the column was tested.
    """

    is_best: bool
    p: float
    is_tested: bool


def choose(levels: Any, shown: Metric) -> ChosenLevel:
    """The best of some points of one method by the metric on the validation split.

    By the metric on the test split, where one of them has no validation value.
    """
    levels = levels[levels[shown.name].notna()]
    if levels.empty:
        return ChosenLevel(None, "")
    column = f"validation_{shown.name}"
    validated = column in levels and not any(levels[column].isna())
    values = levels[column if validated else shown.name]
    split = ("validation" if validated else "test") if len(levels) > 1 else ""
    return ChosenLevel(first_best(values, shown), split)


def first_best(values: Any, shown: Metric) -> Hashable:
    """The place of the best of some values of a metric, a series; of equal ones, of the first."""
    best = values.max() if shown.higher_is_better else values.min()
    return values.index[shown.as_good(values, best)][0]


def marked(
    frame: pd.DataFrame, points: pd.DataFrame, entries: Mapping[Place, ChosenLevel], shown: Metric
) -> dict[Place, Mark]:
    """The marks of the entries of each column.

    Raises:
        ValueError: test examples of two records of one seed cannot be paired.
    """
    own: Any = points.reset_index().merge(frame[list(POINT)].assign(row=frame.index), on=POINT)
    by_point = own.groupby("index")["row"].agg(list)
    used = {entry.point for entry in entries.values() if entry.point is not None}
    rows: Any = frame.loc[[row for point in used for row in by_point[point]]]
    tested = shown.average is not None and len(rows) > 0 and bool(have_outcomes(rows).all())
    known = evidence(rows, shown, resamples=0) if tested else None
    seed_of = dict(zip(frame.index, frame["seed"], strict=True))
    readings: dict[Any, Reading] = {
        point: {seed_of[row]: {row: 1.0} for row in by_point[point]} for point in used
    }

    # Columns share many pairs.
    @functools.cache
    def better(first: Hashable, second: Hashable) -> float:
        assert known is not None
        return known.better(readings[first], readings[second])

    marks: dict[Place, Mark] = {}
    for step in dict.fromkeys(step for _, step in entries):
        column = {place: entry.point for place, entry in entries.items() if place[1] == step}
        there = {place: point for place, point in column.items() if point is not None}
        marks |= {place: Mark(False, float("nan"), tested) for place in column}
        if not there:
            continue
        values: Any = {
            place: float(points.loc[[point], shown.name].iloc[0]) for place, point in there.items()
        }
        p = dict.fromkeys(there, float("nan"))
        if known is not None:
            pairs = of_pairs(list(there.values()), better)
            p = dict(zip(there, map(float, below_the_best(pairs)), strict=True))
        best = max(values.values(), key=lambda value: shown.sign * value)
        for place in there:
            tie = bool(shown.as_good(values[place], best))
            # What shares no seed with any other has no p, and cannot be told from it either.
            is_worse = p[place] < ALPHA if known is not None else not tie
            marks[place] = Mark(tie or not is_worse, p[place], tested)
    return marks


def said_of_choice(entries: Iterable[ChosenLevel], several: str = "levels") -> str:
    """A sentence on how an entry was chosen of `several`; empty if there was no choice."""
    found = [entry.chosen_on for entry in entries]
    text = ""
    if "validation" in found:
        text += (
            f" Of several {several} it is the best on the validation split, by the mean over seeds."
        )
    if "test" in found:
        text += (
            f"{DAGGER}: of several {several} it is the best on the test split itself, which "
            "flatters it, for there is no validation value on record."
        )
    return text


def said_of_marks(marks: Iterable[Mark], where: str = "column") -> str:
    """A sentence on what is bold, of a column or row."""
    if any(mark.is_tested for mark in marks):
        return (
            f" Bold: all that cannot be told from the best of the {where} (p from {ALPHA:g}; each "
            f"paired by test example with all others, corrected by Holm over the {where}: the "
            "chance that a truly best one is not bold is 5 % at most)."
        )
    return f" Bold: the best of the {where}; no outcomes of single examples say what is as good."


def learnt_on(frame: pd.DataFrame, points: pd.DataFrame) -> list[str] | None:
    """For each point which of its parts learnt or chose on which split; None if no record says."""
    start = "protocol.chosen_on."
    names = [str(name) for name in frame if str(name).startswith(start)]
    if not names:
        return None
    texts: Any = frame[names].apply(
        lambda row: "; ".join(
            f"{name.removeprefix(start)}: {split}"
            for name, split in row.items()
            if isinstance(split, str)
        ),
        axis=1,
    )
    first = frame.assign(text=texts).drop_duplicates(list(POINT))[[*POINT, "text"]]
    return list(points.merge(first, on=list(POINT), how="left")["text"])
