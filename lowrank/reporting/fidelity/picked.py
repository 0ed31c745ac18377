"""The points of a fidelity table: each method at its picked level of each size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import UNITS
from lowrank.records.columns import level_text, measure
from lowrank.records.outcomes import Outcomes
from lowrank.records.repeats import POINT, of_their_own
from lowrank.reporting.curves import first_measure, summarise
from lowrank.reporting.entries import choose, said_of_choice
from lowrank.reporting.examples import read_outcomes
from lowrank.reporting.fidelity.answers import counted
from lowrank.reporting.tables import reached
from lowrank.statistics.estimates import Estimate, averaged

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class PickedPoint:
    """A method at its picked level of one size.

    Attributes:
        size: of the column of the summary, such as ``4×``.
        measured: the mean size of the level.
        outcomes: of each of its records, one a seed; seeds that gave the same numbers count once.
    """

    size: str
    family: str
    method: str
    level: str
    measured: float
    outcomes: tuple[Outcomes, ...] = field(repr=False)

    @property
    def labels(self) -> dict[str, str]:
        """The first columns of its rows."""
        return {"size": self.size, "method": self.method, "level": self.level}


def picked(
    frame: pd.DataFrame, metric: str | None, size: str, steps: Sequence[float] | None
) -> tuple[list[PickedPoint], str]:
    """The points of a fidelity table, and a sentence on how their levels were picked.

    At each size, a method has the level that is best on the validation split (where there are no
    records of that: on the test split) among those whose mean `size` is at least that (at most,
    where less is better).

    Raises:
        ValueError: as `lowrank.reporting.tables.summary_table`, a record without its outcomes, or
            no method reaches any size.
    """
    metric = metric or first_measure(frame)
    by = [name for name in (f"validation_{metric}",) if name in frame]
    points: Any = summarise(frame, [metric, *by, size])
    judged, small = measure(frame, metric), measure(frame, size)
    networks = of_their_own(frame)
    found, chosen, read = [], [], {}
    for step in reached(points[size], size, small, steps):
        reaching = points[small.sign * points[size] >= small.sign * step]
        for _, levels in reaching.groupby(["family", "method"]):
            one = choose(levels, judged)
            if one.point is None:
                continue
            chosen.append(one)
            row: Any = points.loc[one.point]
            key = tuple(str(row[name]) for name in POINT)
            if key not in read:
                read[key] = tuple(map(counted, read_outcomes(_paths(networks, row))))
            named = f"{step:g}{UNITS[small.scale][1]}", row["family"], row["method"]
            found.append(PickedPoint(*named, level_text(row["level"]), row[size], read[key]))
    reaches = "least" if small.higher_is_better else "most"
    if not found:
        raise ValueError(
            f"no method has a level whose {small.words} is at {reaches} a size of the table"
        )
    said = (
        f"Each method is at a level whose {small.words} is at {reaches} the size, judged by "
        f"{judged.heading}.{said_of_choice(chosen)}"
    )
    return found, said


def over_records(own: Sequence[Mapping[Any, Estimate]]) -> dict[Any, Estimate]:
    """The means over the records of a point, of those statistics that all of them have."""
    shared = [name for name in own[0] if all(name in one for one in own)]
    return {name: averaged([one[name] for one in own]) for name in shared}


def _paths(frame: Any, row: Any) -> list[str]:
    """The records of a point."""
    same = frame["path"].notna()
    for name in POINT:
        same &= frame[name].isna() if row[name] != row[name] else frame[name] == row[name]
    return list(frame[same]["path"])
