"""The tables of several tasks on one base: quality and bytes of each contender."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import NONE
from lowrank.records.columns import level_text
from lowrank.reporting.across_tasks.contenders import Competitor
from lowrank.reporting.across_tasks.scores import TaskScores
from lowrank.reporting.captions import in_unit, with_error
from lowrank.reporting.table import Table, no_bold
from lowrank.reporting.verdicts import ALPHA
from lowrank.statistics.hypotheses import below_the_best, of_pairs, one_sided

if TYPE_CHECKING:
    import pandas as pd

# The numbers of tasks whose bytes a table has.
TASKS = (1, 2, 5, 20)


def summary(frame: pd.DataFrame, found: TaskScores) -> Table:
    """A row for each contender: mean quality over the tasks, and bytes of 1, 2, 5 and 20 tasks.

    Bold are those that cannot be told from the best; see
    `lowrank.statistics.hypotheses.below_the_best`.
    """
    import pandas as pd

    own, shown = found.contest, found.contest.metric
    scores = [found.of(place) for place in range(len(own.contenders))]

    def no_better(first: int, second: int) -> float:
        one = found.test(first, second)
        return one_sided(one.p, shown.sign * one.value)

    p = below_the_best(of_pairs(range(len(scores)), no_better))
    best = max(shown.sign * score.mean for score in scores)
    values, cells, bold = [], [], []
    for place, (one, score) in enumerate(zip(own.contenders, scores, strict=True)):
        values.append(
            {
                **_named(one),
                shown.name: score.mean,
                f"{shown.name}_std": score.spread,
                f"{shown.name}_se": score.error,
                f"{shown.name}_low": score.low,
                f"{shown.name}_high": score.high,
                "p_best": float(p[place]),
                "shared_bytes": one.shared_bytes,
                "own_bytes": one.own_bytes,
                **{f"bytes_{tasks}": one.bytes(tasks) for tasks in TASKS},
                **one.chosen,
            }
        )
        cells.append(
            {
                **_named_cells(one),
                "mean over tasks": with_error(shown, score.mean, score.spread, score.error),
                "kB shared": _kilobytes(one.shared_bytes),
                "kB each": _kilobytes(one.own_bytes),
                **{f"kB, {n} task{'' if n == 1 else 's'}": _kilobytes(one.bytes(n)) for n in TASKS},
                **{name.rpartition(".")[2]: text for name, text in one.chosen.items()},
            }
        )
        is_best = shown.sign * score.mean >= best or not p[place] < ALPHA
        bold.append(["mean over tasks" == name and is_best for name in cells[-1]])
    cells = pd.DataFrame(cells).fillna(NONE)
    wide = len(cells.columns)
    marks = pd.DataFrame([row + [False] * (wide - len(row)) for row in bold], columns=cells.columns)
    return Table(pd.DataFrame(values), cells, marks, _caption(frame, found), labels=2)


def each(frame: pd.DataFrame, found: TaskScores) -> Table:
    """A row for each contender, a column for each task: the mean over seeds."""
    import pandas as pd

    own, shown = found.contest, found.contest.metric
    values, cells = [], []
    for one in own.contenders:
        means, texts = {}, {}
        for task in own.tasks:
            numbers: Any = frame.loc[[one.rows[task, seed] for seed in own.seeds], shown.name]
            means |= {task: numbers.mean(), f"{task}_std": numbers.std()}
            texts[task] = shown.text(float(numbers.mean()), float(numbers.std()))
        values.append(_named(one) | means)
        cells.append(_named_cells(one) | texts)
    cells = pd.DataFrame(cells)
    caption = (
        f"{_subject(frame, found)}: {in_unit(shown)}, of each task. {_over_seeds(found)}"
        f"{_before(frame, found)}"
    )
    return Table(pd.DataFrame(values), cells, no_bold(cells), caption, labels=2)


def _caption(frame: pd.DataFrame, found: TaskScores) -> str:
    own, shown = found.contest, found.contest.metric
    settings = dict.fromkeys(name for one in own.contenders for name in one.chosen)
    chosen = (
        f" Of several values of {', '.join(settings)} the one that is best on the validation "
        "splits, by the mean over tasks and seeds."
        if settings
        else ""
    )
    measured = len(own.tasks)
    beyond = [str(tasks) for tasks in TASKS if tasks != measured]
    left = f" Left out, for lack of a point: {', '.join(own.left_out)}." if own.left_out else ""
    return (
        f"{_subject(frame, found)}: {in_unit(shown)}, the mean over the tasks, each counted alike. "
        f"{_over_seeds(found)} se: standard error over the test examples, for the same networks"
        f"{', each example with all that the tasks made of it' if found.paired else ''}. Bold: all "
        f"that cannot be told from the best (p from {ALPHA:g}, paired by test example, corrected "
        "by Holm). kB shared: 1000 bytes of what stayed as it was, alike bit for bit in all "
        "tasks of a seed, which is stored once; kB each: of what is a task's own. The bytes of "
        f"{', '.join(beyond)} tasks count so many tasks like these: quality was measured on "
        f"{measured} alone.{chosen}{left}{_before(frame, found)}"
    )


def _subject(frame: pd.DataFrame, found: TaskScores) -> str:
    return f"{len(found.contest.tasks)} tasks on one {frame['model'].iloc[0]}"


def _over_seeds(found: TaskScores) -> str:
    seeds = len(found.contest.seeds)
    if seeds == 1:
        return "One seed, so no spread."
    return f"Mean ± sample standard deviation over {seeds} seeds."


def _before(frame: Any, found: TaskScores) -> str:
    """A sentence on the base before it was trained for the tasks, where that is on record."""
    own, shown = found.contest, found.contest.metric
    column = f"dense_before_recovery_{shown.name}"
    if column not in frame or frame[column].isna().any():
        return ""
    means = frame.drop_duplicates(["task", "seed"]).groupby("task", sort=False)[column].mean()
    each_one = ", ".join(f"{task} {shown.text(float(means[task]))}" for task in own.tasks)
    return f" The base as it is: {shown.text(float(means.mean()))} ({each_one})."


def _named(one: Competitor) -> dict[str, Any]:
    return {"method": one.method, "level": one.level}


def _named_cells(one: Competitor) -> dict[str, str]:
    return {"method": one.method, "level": level_text(one.level)}


def _kilobytes(number: float) -> str:
    return f"{number / 1000:,.1f}"
