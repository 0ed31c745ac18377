"""Published orders of methods, and which points of ours stand beside them."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from experiments.reproduction.faults import KNOWN

VALIDATION = "validation_"


def _one_value(value: Any) -> Any:
    """A value that a column may have in one record.

    Raises:
        ValueError: it is a list, a mapping or no finite number.
    """
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"must be one number, text, true, false or null, and is {value!r:.80}")


# Column of the records → its value there; null where a record has none.
Select = dict[str, Annotated[Any, AfterValidator(_one_value)]]


@dataclass(frozen=True, config=KNOWN)
class OrderedMethod:
    """A method in an ordering: its published figure, and how ours is found."""

    published: float
    select: Select


@dataclass(frozen=True, config=KNOWN)
class Ordering:
    """An order of methods by one column, published for another model or other data than ours.

    Args:
        value: the column.
        of: method → figure and selection.
        dense: the dense model's published figure, for ratios to it.
        run: as of a `Row`.
        tuned: a setting of each method, such as ``recovery.learning_rate``, of which the records
            hold several values; each method takes its own best by the column `by`.
        by: a measure on the validation split, such as ``validation_loss``, the mean over seeds.
    """

    value: str
    of: dict[str, OrderedMethod]
    dense: float | None = None
    run: str = ""
    tuned: str = ""
    by: str = ""

    def __post_init__(self) -> None:
        if len(self.of) < 2:
            raise ValueError("an ordering is of two methods at least")
        if bool(self.tuned) != bool(self.by):
            raise ValueError("tuned, a setting, and by, what chooses it, go together")
        if self.by and not self.by.startswith(VALIDATION):
            raise ValueError(
                f"by={self.by!r} must be a measure on the validation split, {VALIDATION}…: what is "
                "chosen on the test split is flattered by it"
            )
        if self.tuned and any(self.tuned in one.select for one in self.of.values()):
            raise ValueError(f"select sets {self.tuned}, which is tuned")


def tuned(one: Ordering, select: dict[str, Any], found: Any, place: str) -> dict[str, Any]:
    """The selection of a method, with the value of the setting that is tuned.

    Args:
        found: the rows that `select` finds, of all values, a data frame.

    Raises:
        ValueError: as `lowrank.reporting.settings.scores_of`.
    """
    from lowrank.reporting.settings import best_of, scores_of

    if not one.tuned or found.empty:
        return select
    try:
        return select | best_of(found, scores_of(found, [one.tuned], one.by))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
