"""Tables of the results: the best of each method at each size, and every point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import NONE, UNITS, Metric
from lowrank.records.columns import level_text, measure, metrics_of
from lowrank.reporting.captions import (
    counted,
    coverage,
    dense_words,
    in_unit,
    over_seeds,
    sentence,
    subject,
    with_error,
)
from lowrank.reporting.curves import first_measure, norms_in_order
from lowrank.reporting.entries import choose, learnt_on, marked, said_of_choice, said_of_marks
from lowrank.reporting.errors import dense_errors, said, summarise_with_errors
from lowrank.reporting.examples import ERRORS
from lowrank.reporting.table import Table, no_bold

if TYPE_CHECKING:
    import pandas as pd

# By scale, the default sizes of a table's columns, from weak to strong.
STEPS = {"ratio": (1.5, 2, 4, 8, 16, 32), "bits": (16, 10, 8, 6, 5, 4, 3)}

RUNS_DENSE = "every compressed layer runs as dense"
NAN = float("nan")
BITS, SPEEDUP = "layers_bits_per_weight", "speedup_b1"
# The costs in the long table, if measured; the task's metrics follow.
LONG = (
    *("compression_ratio", "layers_bits_per_weight", "coverage"),
    *("param_ratio", "theoretical_speedup", "speedup_b1"),
    *("trainable_params", "trainable_bytes"),
)


def summary_table(
    frame: pd.DataFrame,
    metric: str | None = None,
    size: str = "compression_ratio",
    steps: Sequence[float] | None = None,
) -> Table:
    """The best of each method at each size or smaller: one row per method.

    An entry is a measured point: of the method's levels whose mean `size` is at least that of the
    column (at most, where less is better, as of bits per weight), the one with the best mean of
    `metric` on the validation split. Shown is its value on the test split, which so stays apart
    from the choice. Where a record has no validation value the level is the best on the test split,
    and the entry is marked †. Nothing is interpolated; a dash says that the method was not measured
    at such a size. Beside a ratio, which depends on the dtype that the dense model has, stand the
    bits per weight that the entry takes in its compressed layers.

    Bold are all entries that cannot be told from the best of their column, by the paired tests of
    `lowrank.reporting.compare`, corrected for having picked the best by the same numbers
    (`lowrank.statistics.hypotheses.below_the_best`); without outcomes of single examples, the best
    alone.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery.
        metric: a measure of quality that the dense model has too; that by which the task judges,
            if not given.
        size: a ratio, such as ``compression_ratio``, or ``layers_bits_per_weight``.
        steps: of the columns, from weak to strong; those after the first that no method reaches
            are left out.

    Returns:
        The table. In CSV each column has, after its name, ``_std`` (sample standard deviation over
        seeds), ``_se``, ``_low`` and ``_high`` (standard error over test examples and 95 %
        interval), ``_bits``, ``_level``, ``_chosen_on`` (the split on which the level was chosen;
        empty where there was one only) and ``_p`` (that no other of the column is better,
        corrected).

    Raises:
        ValueError: as `lowrank.reporting.curves.summarise`, or `size` is neither; or test examples
            of two records cannot be paired.
    """
    import pandas as pd

    metric = metric or first_measure(frame)
    beside = [BITS] if size != BITS and _measured(frame, BITS) else []
    judged = [name for name in (f"validation_{metric}",) if _measured(frame, name)]
    points = summarise_with_errors(frame, [metric, size, *beside, *judged])
    shown, small = measure(frame, metric), measure(frame, size)
    steps = reached(points[size], size, small, steps)
    entries = {
        (method, step): choose(levels[small.sign * levels[size] >= small.sign * step], shown)
        for method, levels in points.groupby("method", dropna=False)
        for step in steps
    }
    marks = marked(frame, points, entries, shown)
    in_csv, unit = UNITS[small.scale]
    values, cells, best = [], [], []
    for family, method in points[["family", "method"]].drop_duplicates().to_numpy().tolist():
        value, cell, bold = {"family": family, "method": method}, {"method": method}, [False]
        for step in steps:
            entry, mark = entries[method, step], marks[method, step]
            point = {} if entry.point is None else points.loc[entry.point].to_dict()
            names = {"": metric, **{end: f"{metric}{end}" for end in ("_std", *ERRORS)}}
            names |= {"_level": "level", **dict.fromkeys(["_bits"] if beside else [], BITS)}
            start = f"{step:g}{in_csv}"
            value |= {f"{start}{end}": point.get(name, NAN) for end, name in names.items()}
            value |= {f"{start}_chosen_on": entry.chosen_on, f"{start}_p": mark.p}
            bits = [f"{value[f'{start}_bits']:.3g} bits"] if beside and point else []
            numbers = [value[f"{start}{end}"] for end in ("", "_std", "_se")]
            cell[f"{step:g}{unit}"] = f"{with_error(shown, *numbers, *bits)}{entry.dagger}"
            bold.append(mark.is_best)
        values.append(value)
        cells.append(cell)
        best.append(bold)
    values, cells = pd.DataFrame(values), pd.DataFrame(cells)
    chosen = dict.fromkeys(one.point for one in entries.values() if one.point is not None)
    held = points.loc[list(chosen)]  # A point may stand in several columns.
    in_brackets = " In brackets: the bits per weight of its compressed layers." if beside else ""
    caption = (
        f"{subject(frame)}: {in_unit(shown)}. Each entry is a measured level of the method whose "
        f"{small.words} is at {'least' if small.higher_is_better else 'most'} that of the column; "
        f"{NONE} where none is.{said_of_choice(entries.values())}{in_brackets}"
        f"{sentence(coverage(frame))} {over_seeds(held)}{said(held, [metric])}"
        f"{said_of_marks(marks.values())} "
        f"{dense_words(frame, metric, shown, dense_errors(frame, metric)[0])}"
    )
    if shown.chance is not None:
        caption += f" By chance: {shown.text(shown.chance)}."
    bold = pd.DataFrame(best, index=cells.index, columns=cells.columns)
    return Table(values, cells, bold, caption)


def long_table(frame: pd.DataFrame, size: str = "compression_ratio") -> Table:
    """Every method at every level: sizes, speedups and quality, of those that were measured.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery.
        size: what comes first; see `summary_table`.

    Returns:
        The table. In CSV each measure has ``_std``, ``_se``, ``_low`` and ``_high`` after its name,
        as in `summary_table`, and each metric that was measured on the validation split stands
        there too, with ``validation_`` before its name.

    Raises:
        ValueError: as `lowrank.reporting.curves.summarise`.
    """
    import pandas as pd

    own = metrics_of(frame)
    columns = _columns(frame, size)
    # In CSV alone: what a choice of a level is made by.
    judged = [f"validation_{name}" for name in columns if _measured(frame, f"validation_{name}")]
    points: Any = summarise_with_errors(frame, [*columns, *judged])
    chosen = learnt_on(frame, points)
    measures = {column: measure(frame, column) for column in columns}
    # A single norm needs no column.
    norms = ["norm"] if len(norms_in_order(points["norm"])) > 1 else []
    cells = pd.DataFrame(
        {
            "method": points["method"],
            **{name: points[name] for name in norms},
            "level": [level_text(level) for level in points["level"]],
            **{
                shown.heading: [
                    with_error(shown, *three)
                    for three in points.reindex(
                        columns=[column, f"{column}_std", f"{column}_se"]
                    ).to_numpy(dtype=float)
                ]
                for column, shown in measures.items()
            },
            "seeds": [counted(*both) for both in points[["seeds", "repeats"]].to_numpy()],
        }
    )
    spreads = [
        f"{column}{end}"
        for column in [*columns, *judged]
        for end in ("", "_std", *ERRORS)
        if f"{column}{end}" in points
    ]
    values = points[["family", "method", *norms, "level", *spreads, "seeds", "repeats"]].assign(
        **({} if chosen is None else {"learnt_on": chosen})
    )
    best = no_bold(cells)
    told = [f"; {shown.heading}: {shown.words}" for name, shown in measures.items() if name in own]
    caption = (
        f"{subject(frame)}: every measured point. Ratios are dense over compressed, of the whole "
        f"model{''.join(told)}.{sentence(coverage(frame))} "
        f"{over_seeds(points)}{said(points, columns)}"
    )
    if size != LONG[0]:
        caption += f" First: {measures[size].words}."
    if SPEEDUP in columns:
        caption += f" Speedup: {measures[SPEEDUP].words}; {NONE} where {RUNS_DENSE}."
    return Table(values, cells, best, caption, labels=2 + len(norms))


def _columns(frame: Any, size: str) -> list[str]:
    """The columns of the long table: `size`, and what was measured and differs."""
    own = [name for name, metric in metrics_of(frame).items() if not metric.minor]
    names = [name for name in (*LONG, *own) if _measured(frame, name)]
    if set(frame["dense_recovery"]) == {"none"}:  # Nothing was trained for the task.
        names = [name for name in names if not name.startswith("trainable")]
    if "coverage" in names and len(frame["coverage"].unique()) == 1:
        names.remove("coverage")  # The caption says it of all.
    return list(dict.fromkeys((size, *names)))


def reached(sizes: Any, size: str, small: Metric, steps: Sequence[float] | None) -> list[float]:
    """The columns of a table of `sizes`: of `steps` the first and those that one of them reaches.

    The first stays, so that there is a column even where nothing was made smaller.
    """
    if small.scale not in STEPS:
        raise ValueError(
            f"size={size!r} has no columns to make a table of: give a ratio, such as "
            "compression_ratio, or layers_bits_per_weight"
        )
    steps = STEPS[small.scale] if steps is None else steps
    most = float((small.sign * sizes).max())
    return [step for step in steps if step == steps[0] or small.sign * step <= most]


def _measured(frame: pd.DataFrame, column: str) -> bool:
    """Whether there is something to say of a column: a speedup may be that there is none."""
    timed = column == SPEEDUP and "latency_b1_s" in frame and not all(frame["latency_b1_s"].isna())
    return column in frame and (timed or not all(frame[column].isna()))
