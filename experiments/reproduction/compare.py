"""Published figures beside ours, and a verdict on each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.reproduction.entry import Entry, OrderedMethod, Ordering, Row, Run, Value

if TYPE_CHECKING:
    import pandas as pd

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
UNDECIDED, DISPUTED = "undecided", "disputed"
NOT_RUN, CANNOT = "not run yet", "cannot be run here"
SAME_ORDER, OTHER_ORDER = "same order", "other order"
# Standard errors that a difference must exceed the tolerance by, or stay below it by.
SURE = 2.0
NAN = float("nan")
Frames = Mapping[str, "pd.DataFrame | None"]


@dataclass(frozen=True)
class Ours:
    """Our number: its mean over seeds.

    Attributes:
        mean: NaN where it was not measured.
        spread: the sample standard deviation over seeds, NaN for one.
        count: of seeds.
        error: the mean standard error over examples, NaN where none is known.
    """

    mean: float = NAN
    spread: float = NAN
    count: int = 0
    error: float = NAN

    @property
    def of_the_mean(self) -> float:
        """The standard error of the mean over seeds, 0 for one seed."""
        return self.spread / math.sqrt(self.count) if self.count > 1 else 0.0


@dataclass(frozen=True)
class RowVerdict:
    """A number of a published table beside ours; `dense` is ours of the dense model."""

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


@dataclass(frozen=True)
class OrderVerdict:
    """An order of methods, published for one model, beside ours of another."""

    name: str
    column: str
    members: tuple[RowVerdict, ...]
    agreeing: int
    pairs: int
    verdict: str


def rows(entry: Entry, frames: Frames) -> Iterator[RowVerdict]:
    """Each published figure of the rows beside ours.

    Args:
        frames: the records of each run of the entry, None where there are none.

    Raises:
        ValueError: a selection is of several points, or names a column that is not there.
    """
    for name, row in entry.rows.items():
        for column, published in row.published.items():
            if published is None:
                continue
            value, place = entry.values[column], f"rows.{name}, {column}"
            ours = Ours() if row.left else _ours(entry, row, row.select, value, frames, place)
            allowed = value.tolerance * (abs(published) if value.relative else 1)
            verdict = _verdict(value, published, ours, allowed)
            why = ""
            if column in row.disputed:
                verdict, why = DISPUTED, row.disputed[column]
            elif not ours.count:
                verdict, why = _without(entry, row)
            yield RowVerdict(name, column, published, ours, allowed, verdict, why)


def orderings(entry: Entry, frames: Frames) -> Iterator[OrderVerdict]:
    """Each published order beside ours; errors as of `rows`."""
    for name, one in entry.orderings.items():
        value = entry.values[one.value]
        members = [
            _member(entry, one, method, member, frames, f"orderings.{name}.{method}")
            for method, member in one.of.items()
        ]
        members.sort(key=lambda member: _sign(value) * member.published, reverse=True)
        measured = [member for member in members if member.ours.count]
        decided = [
            _agree(value, better, worse)
            for better, worse in itertools.combinations(measured, 2)
            if better.published != worse.published
        ]
        agreeing = [agrees for agrees in decided if agrees is not None]
        if len(measured) < 2:
            verdict = _without(entry, one)[0]
        elif not all(agreeing):
            verdict = OTHER_ORDER
        else:
            verdict = SAME_ORDER if len(agreeing) == len(decided) > 0 else UNDECIDED
        shown = tuple(members)
        yield OrderVerdict(name, one.value, shown, sum(agreeing), len(decided), verdict)


def _member(
    entry: Entry, one: Ordering, method: str, member: OrderedMethod, frames: Frames, place: str
) -> RowVerdict:
    value = entry.values[one.value]
    ours = _ours(entry, one, member.select, value, frames, place)
    dense = NAN
    if ours.count and value.dense:
        dense = _ours(entry, one, member.select, value, frames, place, value.dense).mean
    verdict, why = ("", "") if ours.count else _without(entry, one)
    return RowVerdict(method, one.value, member.published, ours, NAN, verdict, why, dense)


def _agree(value: Value, better: RowVerdict, worse: RowVerdict) -> bool | None:
    """Whether the one that is published as better is better here; None where noise hides it."""
    gain = _sign(value) * (better.ours.mean - worse.ours.mean)
    noise = math.hypot(better.ours.of_the_mean, worse.ours.of_the_mean)
    return gain > 0 if abs(gain) > SURE * noise else None


def _sign(value: Value) -> int:
    return -1 if value.better == "lower" else 1


def _verdict(value: Value, published: float, ours: Ours, allowed: float) -> str:
    away = ours.mean - published if value.at_most else abs(ours.mean - published)
    noise = SURE * ours.of_the_mean
    if away + noise <= allowed:
        return REPRODUCED
    return UNDECIDED if away - noise <= allowed and noise > 0 else NOT_REPRODUCED


def _without(entry: Entry, one: Row | Ordering) -> tuple[str, str]:
    """The verdict on what has no number of ours, and why."""
    if isinstance(one, Row) and one.left:
        return CANNOT, one.left
    needs = entry.run_of(one).needs
    return (CANNOT, f"it needs {needs}") if needs else (NOT_RUN, "")


def _ours(
    entry: Entry,
    one: Row | Ordering,
    select: Mapping[str, Any],
    value: Value,
    frames: Frames,
    place: str,
    expression: str = "",
) -> Ours:
    frame = frames[_name(entry, entry.run_of(one))]
    if frame is None:
        return Ours()
    found = selected(frame, select, place)
    if found.empty:
        return Ours()
    numbers: Any = evaluated(found, expression or value.ours, place)
    error = NAN
    if value.standard_error and not _unknown(found, value.standard_error):
        errors: Any = evaluated(found, value.standard_error, place)
        error = float(errors.mean())
    return Ours(float(numbers.mean()), float(numbers.std()), len(numbers), error)


def _name(entry: Entry, run: Run) -> str:
    return next(name for name, one in entry.runs.items() if one is run)


def selected(frame: pd.DataFrame, select: Mapping[str, Any], place: str) -> pd.DataFrame:
    """The rows with these values, those of one point at several seeds; none if there are none.

    Raises:
        ValueError: there is no such column, or the rows are of several points.
    """
    found: Any = frame
    for column, wanted in select.items():
        if column not in frame:
            raise ValueError(
                f"{place}: select names {column!r}, which is no column of the records: there are "
                f"{', '.join(map(str, frame))}"
            )
        values = found[column]
        if wanted is None:
            found = found[values.isna()]
        elif isinstance(wanted, int | float) and not isinstance(wanted, bool):
            found = found[values.map(lambda one, n=wanted: _is_close(one, n)).astype(bool)]
        else:
            found = found[values == wanted]
    if found["point"].nunique() > 1:
        shown = found.drop(columns=["point", "key", "path", "seed"], errors="ignore")
        several = [str(name) for name in shown if shown[name].astype(str).nunique() > 1]
        raise ValueError(
            f"{place}: select is of {found['point'].nunique()} points, which differ in "
            f"{', '.join(several[:8])}: add one of these to it"
        )
    return found


def _is_close(one: Any, wanted: float) -> bool:
    is_number = isinstance(one, int | float) and not isinstance(one, bool)
    return is_number and math.isclose(one, wanted, rel_tol=1e-9)


def _unknown(frame: pd.DataFrame, expression: str) -> bool:
    from pandas.errors import UndefinedVariableError

    try:
        frame.eval(expression, engine="python")
    except UndefinedVariableError:
        return True
    return False


def evaluated(frame: pd.DataFrame, expression: str, place: str) -> pd.Series:
    try:
        result: Any = frame.eval(expression, engine="python")
    except Exception as error:
        # pandas raises whatever the parser of Python or the operation does.
        raise ValueError(f"{place}: {expression!r} cannot be computed: {error}") from error
    numbers = result.astype(float)
    if numbers.isna().any():
        raise ValueError(f"{place}: {expression!r} is no number in some of its records")
    return numbers
