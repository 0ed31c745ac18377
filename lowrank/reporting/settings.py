"""Settings of which each method takes its own best, such as learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from lowrank.records.columns import level_text, measure
from lowrank.reporting.captions import subject
from lowrank.reporting.entries import first_best
from lowrank.reporting.table import Table, no_bold

if TYPE_CHECKING:
    import pandas as pd

# What is tuned: each method, in each norm, at each level.
TUNED = ["method", "norm", "level"]
# A column beside those that may be named as settings.
SEED = "the seed of the record"
# Columns that an error names.
MOST_NAMED = 8


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
    for column in (*settings, judged):
        _check_held(frame, column)
    kept, chosen = [], []
    for point, rows in frame.groupby(TUNED, dropna=False, sort=False):
        scores = scores_of(rows, settings, judged)
        best = best_of(rows, scores)
        own: Any = rows[(rows[list(settings)] == list(best.values())).all(axis=1)]
        kept.append(own)
        names = dict(zip(TUNED, point, strict=True))  # type: ignore[arg-type]
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
    return pd.concat(kept), Table(values, cells, no_bold(cells), caption, labels=len(TUNED))


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
        _check_held(rows, column)
    by_seed: Any = rows.assign(**{SEED: rows["seed"]}).groupby([*settings, SEED])[judged].mean()
    shared = by_seed.unstack(SEED).dropna(axis="columns")
    if shared.empty:
        raise ValueError(
            f"no seed has all values of {', '.join(settings)}, so the best of them may be the best "
            "seed alone: measure each at the same seeds"
        )
    return shared.mean(axis="columns").rename(judged)


def _check_held(rows: Any, column: str) -> None:
    """Raise ValueError unless all rows have a value in a column."""
    held = [str(name) for name in rows if not rows[name].isna().all()]
    if column not in held:
        group = f"{column.partition('.')[0]}."
        same = [name for name in held if "." in column and name.startswith(group)]
        # Whatever is set in the same part of a config, or else what may have been meant.
        alike = get_close_matches(column, same or held, MOST_NAMED, 0 if same else 0.6)
        there = f"; there are {', '.join(alike)}" if alike else ""
        raise ValueError(f"no record has a value of {column!r}{there}")
    lacking = rows[rows[column].isna()]
    if len(lacking):
        raise ValueError(
            f"{len(lacking)} of {len(rows)} records lack {column!r}, such as "
            f"{lacking['path'].iloc[0]}: choose records that all have it"
        )


def best_of(rows: Any, scores: pd.Series) -> dict[str, Any]:
    """The values of settings that have the best of `scores_of`."""
    best: Any = first_best(scores, measure(rows, str(scores.name)))
    values = best if isinstance(best, tuple) else (best,)
    return dict(zip(scores.index.names, values, strict=True))
