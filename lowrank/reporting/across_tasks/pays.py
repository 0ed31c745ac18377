"""From how many tasks on one method takes fewer bytes than another at the same quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import NONE, Metric
from lowrank.records.columns import level_text
from lowrank.reporting.across_tasks.contenders import Competitor
from lowrank.reporting.across_tasks.scores import TaskScores
from lowrank.reporting.captions import in_unit
from lowrank.reporting.table import Table, no_bold
from lowrank.reporting.verdicts import ALPHA, p_text
from lowrank.statistics.differences import Difference

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Pays:
    """What a method has to set against one contender of another.

    Attributes:
        first: the level of the method that takes fewer bytes from the smallest number of tasks on,
            of those that are not worse than `second`; None if there is none.
        second: the contender.
        tasks: that number.
        difference: first − second; None without a first.
        why: where there is no first, the reason.
    """

    first: Competitor | None
    second: Competitor
    tasks: int | None
    difference: Difference | None
    why: str = ""


def set_against(found: TaskScores, method: str, against: str) -> tuple[Pays, ...]:
    """What `method` has to set against each level of the method `against`.

    A level is as good as another if the paired test over the test examples does not say that it is
    worse (two-sided p < 0.05 of the difference), or if it is better. The p-values are not corrected
    for their number, for a correction would call more of them alike.

    Raises:
        ValueError: there is no such method, or it is the same.
    """
    own = found.contest.contenders
    known = list(dict.fromkeys(one.method for one in own))
    for name in (method, against):
        if name not in known:
            raise ValueError(f"no contender is of method {name!r}: there are {', '.join(known)}")
    if method == against:
        raise ValueError(f"{method!r} cannot be compared with itself: name two methods")
    return tuple(
        _against(found, method, place) for place, one in enumerate(own) if one.method == against
    )


def _against(found: TaskScores, method: str, place: int) -> Pays:
    own, sign = found.contest.contenders, found.contest.metric.sign
    second = own[place]
    tested = {
        other: found.test(other, place) for other, one in enumerate(own) if one.method == method
    }
    good = {n: one for n, one in tested.items() if not one.p < ALPHA or sign * one.value > 0}
    if not good:
        return Pays(None, second, None, None, "every level is worse")
    fewer = {n: tasks for n in good if (tasks := own[n].fewer_from(second)) is not None}
    if not fewer:
        return Pays(None, second, None, None, "what is as good takes no fewer bytes for a task")
    first = min(fewer, key=lambda n: (fewer[n], own[n].own_bytes))
    return Pays(own[first], second, fewer[first], good[first])


def sentence(found: TaskScores, method: str, answers: Sequence[Pays]) -> str:
    """The answers on a method against another, in one sentence."""
    shown, against = found.contest.metric, answers[0].second.method
    about = (
        f"{len(found.contest.tasks)} tasks, {_count(len(found.contest.seeds), 'seed')}, "
        f"{found.sample.examples:,} examples"
    )
    said = [_said(one, shown) for one in answers]
    return (
        f"{method} takes fewer bytes than {against} at a quality that cannot be told from it or "
        f"is better ({about}): {'; '.join(said)}."
    )


def _said(one: Pays, shown: Metric) -> str:
    if one.first is None or one.difference is None:
        return f"than {one.second.name} at no number of tasks ({one.why})"
    pair = f"{shown.text(one.difference.first)} against {shown.text(one.difference.second)}"
    assert one.tasks is not None
    return (
        f"than {one.second.name} from {_count(one.tasks, 'task')} on, as {one.first.name} ({pair})"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def table(frame: pd.DataFrame, found: TaskScores, answers: Sequence[tuple[str, Pays]]) -> Table:
    """A row for each method and each contender that it is set against."""
    import pandas as pd

    shown, most = found.contest.metric, len(found.contest.tasks)
    values = pd.DataFrame([_values(name, one, shown, most) for name, one in answers])
    cells = pd.DataFrame([_cells(name, one, shown, most) for name, one in answers])
    caption = (
        f"{most} tasks on one {frame['model'].iloc[0]}: {in_unit(shown)}, the mean over the tasks. "
        "Each row is a method against one level of another. From tasks: the number of tasks from "
        "which on it takes fewer bytes in all, at the level that does so first of those that are "
        f"not worse (paired over {found.sample.examples:,} test examples, two-sided p < {ALPHA:g}, "
        f"not corrected: that would call more levels alike); {NONE} where there is none. "
        f"kB, {most} tasks: of the method / of the other. Difference: method − other, with its "
        "95 % interval over the test examples, for the same networks."
    )
    return Table(values, cells, no_bold(cells), caption, labels=3)


def _values(name: str, one: Pays, shown: Metric, most: int) -> dict[str, Any]:
    first, apart, nan = one.first, one.difference, float("nan")
    return {
        "method": name,
        "against": one.second.method,
        "against_level": one.second.level,
        "level": nan if first is None else first.level,
        "from_tasks": nan if one.tasks is None else one.tasks,
        shown.name: nan if apart is None else apart.first,
        f"against_{shown.name}": nan if apart is None else apart.second,
        "difference": nan if apart is None else apart.value,
        "difference_se": nan if apart is None else apart.error,
        "difference_low": nan if apart is None else apart.low,
        "difference_high": nan if apart is None else apart.high,
        "p": nan if apart is None else apart.p,
        f"bytes_{most}": nan if first is None else first.bytes(most),
        f"against_bytes_{most}": one.second.bytes(most),
        "why_none": one.why,
    }


def _cells(name: str, one: Pays, shown: Metric, most: int) -> dict[str, str]:
    first, apart = one.first, one.difference
    kilobytes = [f"{each.bytes(most) / 1000:,.1f}" for each in (first, one.second) if each]
    return {
        "method": name,
        "against": one.second.method,
        "its level": level_text(one.second.level),
        "level": NONE if first is None else level_text(first.level),
        "from tasks": NONE if one.tasks is None else f"{one.tasks}",
        "difference": NONE if apart is None else shown.text(apart.value, apart.error),
        "95 % interval": NONE
        if apart is None
        else f"{shown.text(apart.low)} to {shown.text(apart.high)}",
        "p": NONE if apart is None else p_text(apart.p),
        f"kB, {most} tasks": " / ".join(kilobytes if first else [NONE, *kilobytes]),
    }
