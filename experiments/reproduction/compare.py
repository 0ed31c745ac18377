"""Published figures beside ours, and a verdict on each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.reproduction import verdict as verdicts
from experiments.reproduction.entry import Entry, Row, Run
from experiments.reproduction.ordering import Ordering
from experiments.reproduction.ours import NAN, Ours, measured

if TYPE_CHECKING:
    import pandas as pd

Frames = Mapping[str, "pd.DataFrame | None"]


@dataclass(frozen=True)
class RowVerdict:
    """A number of a published table beside ours.

    Attributes:
        place: the name of its row.
        column: of the table.
        published: NaN where the table has none, and ours stands alone.
        allowed: the largest difference at which it counts as reproduced.
        why: why it has no verdict, or an undecided one.
        dense: ours of the dense model, in orderings.
    """

    place: str
    column: str
    published: float
    ours: Ours
    allowed: float
    verdict: str
    why: str = ""
    dense: float = NAN

    @property
    def difference(self) -> float:
        return self.ours.mean - self.published


def rows(entry: Entry, frames: Frames) -> Iterator[RowVerdict]:
    """Each published figure of the rows beside ours, and what of ours stands beside them.

    Args:
        frames: the records of each run of the entry, None where there are none.

    Raises:
        ValueError: a selection is of several points, or names a column that is not there.
    """
    for name, row, column in figures(entry):
        ours = Ours()
        if not row.left:
            run, frame = entry.run_of(row), frames[entry.name_of(entry.run_of(row))]
            place = f"rows.{name}, {column}"
            ours = measured(run, frame, row.select, entry.values[column], place)
        yield judged(entry, name, column, ours)


def figures(entry: Entry) -> Iterator[tuple[str, Row, str]]:
    """The numbers of the rows in their order: name and row, and column."""
    for name, row in entry.rows.items():
        for column, published in row.published.items():
            if published is not None:
                yield name, row, column
        for column in row.beside:
            yield name, row, column


def judged(entry: Entry, name: str, column: str, ours: Ours) -> RowVerdict:
    """The verdict on a figure of a row, given ours."""
    row, value = entry.rows[name], entry.values[column]
    published = row.published.get(column)
    if published is None:
        found, why = (verdicts.BESIDE, "") if ours.count else without(entry, row)
        return RowVerdict(name, column, NAN, ours, NAN, found, why)
    allowed = verdicts.allowed(value, published)
    if column in row.disputed:
        found, why = verdicts.DISPUTED, row.disputed[column]
    elif not ours.count:
        found, why = without(entry, row)
    else:
        decimals = verdicts.decimals(entry, column, published)
        found = verdicts.verdict(value, entry.run_of(row), published, ours, decimals)
        why = verdicts.why_undecided(value, ours) if found == verdicts.UNDECIDED else ""
    return RowVerdict(name, column, published, ours, allowed, found, why)


def without(entry: Entry, one: Row | Ordering) -> tuple[str, str]:
    """The verdict on what has no number of ours, and why."""
    if isinstance(one, Row) and one.left:
        return verdicts.CANNOT, one.left
    run: Run = entry.run_of(one)
    return (verdicts.CANNOT, f"it needs {run.needs}") if run.needs else (verdicts.NOT_RUN, "")
