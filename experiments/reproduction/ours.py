"""Our numbers for a published table: what is selected, its mean over networks, how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.reproduction.entry import Run, Value
from experiments.reproduction.programs import ASKED
from lowrank.records.repeats import outcome_numbers
from lowrank.statistics import student
from lowrank.statistics.means import interval_of_share

if TYPE_CHECKING:
    import pandas as pd

NAN = float("nan")


@dataclass(frozen=True)
class Ours:
    """Our number: its mean over networks, where a network is one seed with numbers of its own.

    Attributes:
        mean: NaN where it was not measured.
        spread: the sample standard deviation over networks, NaN for one.
        count: of networks: seeds that gave the same record again do not count. Of a share of
            trials all do.
        error: the mean standard error over examples, NaN where none is known.
        seeds: that have a record.
        asked: seeds that the entry asks for.
        exact: whether another seed would give the same: nothing is drawn, or several did.
    """

    mean: float = NAN
    spread: float = NAN
    count: int = 0
    error: float = NAN
    seeds: int = 0
    asked: int = 1
    exact: bool = False

    @property
    def is_incomplete(self) -> bool:
        """Whether seeds are missing that the entry asks for."""
        return 0 < self.seeds < self.asked

    def interval(self, value: Value) -> tuple[float, float]:
        """The ends of the 95 % interval of the mean; NaN where nothing is known of it.

        Another choice of networks moves the mean by s/√m; of one network s is not known, and the
        error over examples stands in for it: two networks that are right equally often differ by
        about that, if chance decides on which examples. The error over examples counts besides
        where the published figure is of other examples; on the same ones it is none. A share of
        trials has Wilson's interval, for trials that all end alike scatter by nothing.
        """
        if value.share and not self.exact:
            return interval_of_share(self.mean, 0.0, self.count)
        if self.exact:
            of_networks, degrees = 0.0, math.inf
        elif self.count > 1:
            of_networks, degrees = self.spread / math.sqrt(self.count), self.count - 1
        else:
            of_networks, degrees = self.error, math.inf
        of_examples = self.error if value.other_examples else 0.0
        reach = half_width(of_networks, degrees, of_examples)
        return self.mean - reach, self.mean + reach


def half_width(of_networks: float, degrees: float, of_examples: float) -> float:
    """Half the width of the 95 % interval of a mean whose error has two independent parts.

    Student's t; the degrees of freedom of the examples, of which there are hundreds, are taken as
    infinite.

    Args:
        of_networks, of_examples: standard errors.
        degrees: of freedom of the first, infinite where it is known.
    """
    both = math.hypot(of_networks, of_examples)
    if not both > 0:
        return both
    return student.half_width(both, _degrees(of_networks, degrees, of_examples))


def p_value(difference: float, of_networks: float, degrees: float, of_examples: float) -> float:
    """The two-sided p-value of no difference, of the same law as `half_width`."""
    both = math.hypot(of_networks, of_examples)
    if not both > 0:
        return 1.0 if difference == 0 else 0.0
    return student.p_value(difference, both, _degrees(of_networks, degrees, of_examples))


def _degrees(of_networks: float, degrees: float, of_examples: float) -> float:
    return student.satterthwaite((of_networks**2, degrees), (of_examples**2, math.inf))


def measured(
    run: Run,
    frame: pd.DataFrame | None,
    select: Mapping[str, Any],
    value: Value,
    place: str,
    expression: str = "",
) -> Ours:
    """Our number of a selection; one of no records if there are none.

    Args:
        frame: the records of the run, None where there are none.
        expression: in place of `value.ours`.

    Raises:
        ValueError: as of `selected` and `evaluated`; or a share of trials is none.
    """
    found = None if frame is None else selected(frame, select, place)
    if found is None or found.empty:
        return Ours()
    own = found if value.share else found.loc[distinct(found)]
    numbers: Any = evaluated(own, expression or value.ours, place)
    if value.share and not numbers.between(0, 1).all():
        raise ValueError(f"{place}: a share of trials is within 0 and 1, not {list(numbers)}")
    error = _error(own, value.standard_error, place) if value.standard_error else NAN
    return Ours(
        mean=float(numbers.mean()),
        spread=float(numbers.std()),
        count=len(own),
        error=error,
        seeds=len(found),
        asked=int(max(found[ASKED])) if ASKED in found else run.seeds,
        exact=run.exact or len(own) == 1 < len(found),
    )


def distinct(found: pd.DataFrame) -> list[Any]:
    """The rows of a point whose seeds gave numbers of their own; of equal ones, the first."""
    firsts: dict[int, Any] = {}
    for row, number in outcome_numbers(found).items():
        firsts.setdefault(number, row)
    return list(firsts.values())


def selected(frame: pd.DataFrame, select: Mapping[str, Any], place: str) -> pd.DataFrame:
    """The rows with these values, those of one point at several seeds; none if there are none.

    Raises:
        ValueError: there is no such column, or the rows are of several points.
    """
    found: Any = matching(frame, select, place)
    if found["point"].nunique() > 1:
        shown = found.drop(columns=["point", "key", "path", "seed"], errors="ignore")
        several = [str(name) for name in shown if shown[name].astype(str).nunique() > 1]
        raise ValueError(
            f"{place}: select is of {found['point'].nunique()} points, which differ in "
            f"{', '.join(several[:8])}: add one of these to it"
        )
    return found


def matching(frame: pd.DataFrame, select: Mapping[str, Any], place: str) -> pd.DataFrame:
    """The rows with these values, of any number of points.

    Raises:
        ValueError: there is no such column.
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
    return found


def _is_close(one: Any, wanted: float) -> bool:
    is_number = isinstance(one, int | float) and not isinstance(one, bool)
    return is_number and math.isclose(one, wanted, rel_tol=1e-9)


def _error(frame: pd.DataFrame, expression: str, place: str) -> float:
    """The mean of a standard error; NaN where the records have its metric, and no error of it."""
    lacking = [f"{name}_se" for name in frame if f"{name}_se" not in frame]
    # All columns at once: a frame that grows by each is slow, and pandas warns of it.
    padded: Any = frame.reindex(columns=[*frame, *lacking])
    if _numbers(padded, expression, place).isna().all():
        return NAN
    return float(evaluated(frame, expression, place).mean())


def evaluated(frame: pd.DataFrame, expression: str, place: str) -> pd.Series:
    """An expression of columns for each row.

    Raises:
        ValueError: it cannot be computed, or is no finite number in some row.
    """
    numbers = _numbers(frame, expression, place)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{place}: {expression!r} is no finite number in some of its records")
    return numbers


def _numbers(frame: pd.DataFrame, expression: str, place: str) -> pd.Series:
    import pandas as pd

    try:
        result = frame.eval(expression, engine="python")
        if not isinstance(result, pd.Series):
            raise ValueError("it has no value for each record")
        return result.astype(float)
    except Exception as error:
        # pandas raises whatever the parser of Python or the operation does.
        raise ValueError(f"{place}: {expression!r} cannot be computed: {error}") from error
