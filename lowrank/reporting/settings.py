"""Settings of which each method takes its own best, such as learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lowrank.records.columns import level_text, measure
from lowrank.reporting.captions import subject
from lowrank.reporting.table import Table, no_bold

if TYPE_CHECKING:
    import pandas as pd

POINT = ["method", "norm", "level"]
# A column beside those that may be named as settings.
SEED = "the seed of the record"


def at_best_settings(
    frame: pd.DataFrame, settings: Sequence[str], metric: str
) -> tuple[pd.DataFrame, Table]:
    """The records of each method and level with its best settings, and a table that names them.

    The best are those of the best `metric` on the validation split, by the mean over seeds. What is
    chosen there flatters no number of the test split.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery of the dense
            model.
        settings: columns, such as ``recovery.learning_rate``, of which there are several values.

    Raises:
        ValueError: there is no such column, or no value of it or of the metric in some record.
    """
    import pandas as pd

    judged = f"validation_{metric}"
    kept, chosen = [], []
    for point, rows in frame.groupby(POINT, dropna=False, sort=False):
        scores = scores_of(rows, settings, judged)
        best = best_of(rows, scores)
        own: Any = rows[(rows[list(settings)] == list(best.values())).all(axis=1)]
        kept.append(own)
        names = dict(zip(POINT, point, strict=True))  # type: ignore[arg-type]
        chosen.append(names | best | {judged: own[judged].mean(), "tried": len(scores)})
    values = pd.DataFrame(chosen)
    shown = measure(frame, judged)
    cells = values.assign(
        level=[level_text(level) for level in values["level"]],
        **{judged: [shown.text(one) for one in values[judged]]},
    ).map(lambda cell: f"{cell:g}" if isinstance(cell, float) else str(cell))
    cells = cells.rename(columns={judged: shown.heading})
    caption = (
        f"{subject(frame)}: the values of {', '.join(settings)} that were best on the validation "
        "split, by the mean over seeds, and how many were tried."
    )
    return pd.concat(kept), Table(values, cells, no_bold(cells), caption, labels=len(POINT))


def scores_of(rows: Any, settings: Sequence[str], judged: str) -> pd.Series:
    """The mean over seeds of a measure, by the values of some settings.

    It is over the seeds that all values have: a value is not better for an easy seed.

    Args:
        rows: of one method and level.
        judged: the measure, such as ``validation_top1``.

    Raises:
        ValueError: a column is missing in some row, or no seed has all values.
    """
    for column in (*settings, judged):
        if column not in rows or rows[column].isna().any():
            raise ValueError(f"column {column!r} is missing in some of the records, or in all")
    by_seed: Any = rows.assign(**{SEED: rows["seed"]}).groupby([*settings, SEED])[judged].mean()
    shared = by_seed.unstack(SEED).dropna(axis="columns")
    if shared.empty:
        raise ValueError(
            f"no seed has all values of {', '.join(settings)}, so the best of them may be the best "
            "seed alone: measure each at the same seeds"
        )
    return shared.mean(axis="columns").rename(judged)


def best_of(rows: Any, scores: pd.Series) -> dict[str, Any]:
    """The values of settings that have the best of `scores_of`."""
    is_higher = measure(rows, str(scores.name)).higher_is_better
    best: Any = scores.idxmax() if is_higher else scores.idxmin()
    values = best if isinstance(best, tuple) else (best,)
    return dict(zip(scores.index.names, values, strict=True))
