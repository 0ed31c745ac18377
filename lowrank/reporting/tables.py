"""Tables of the results: the best of each method at each size, and every point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import NONE, Metric
from lowrank.records.columns import level_text, measure, metrics_of
from lowrank.reporting.captions import (
    counted,
    coverage,
    dense_words,
    in_unit,
    over_seeds,
    sentence,
    subject,
)
from lowrank.reporting.curves import first_measure, norms_in_order, summarise
from lowrank.reporting.table import Table

if TYPE_CHECKING:
    import pandas as pd

# By scale, the default sizes of a table's columns, from weak to strong, and the column's name in
# CSV and in text.
STEPS = {"ratio": (1.5, 2, 4, 8, 16, 32), "bits": (16, 10, 8, 6, 5, 4, 3)}
UNITS = {"ratio": ("x", "×"), "bits": (" bits", " bits")}

RUNS_DENSE = "every compressed layer runs as dense"
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
    `metric`. Nothing is interpolated; a dash says that the method was not measured at such a size.
    The best of a column is bold. Beside a ratio, which depends on the dtype that the dense model
    has, stand the bits per weight that the entry takes in its compressed layers.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery.
        metric: a measure of quality that the dense model has too; that by which the task judges,
            if not given.
        size: a ratio, such as ``compression_ratio``, or ``layers_bits_per_weight``.
        steps: of the columns, from weak to strong; those after the first that no method reaches
            are left out.

    Raises:
        ValueError: as `lowrank.reporting.curves.summarise`, or `size` is neither.
    """
    import pandas as pd

    metric = metric or first_measure(frame)
    beside = [BITS] if size != BITS and _measured(frame, BITS) else []
    points = summarise(frame, [metric, size, *beside])
    shown, small = measure(frame, metric), measure(frame, size)
    steps = reached(points[size], size, small, steps)
    in_csv, unit = UNITS[small.scale]
    values, cells = [], []
    groups: Any = points.groupby(["family", "method"], dropna=False)
    for (family, method), levels in groups:
        value, cell = {"family": family, "method": method}, {"method": method}
        for step in steps:
            reaching = levels[small.sign * levels[size] >= small.sign * step]
            mean, spread, *bits = _best(reaching, shown, [metric, f"{metric}_std", *beside])
            value |= {f"{step:g}{in_csv}": mean, f"{step:g}{in_csv}_std": spread}
            value |= {f"{step:g}{in_csv}_bits": own for own in bits}
            added = [f" ({own:.3g} bits)" for own in bits if own == own]
            cell[f"{step:g}{unit}"] = shown.text(mean, spread) + "".join(added)
        values.append(value)
        cells.append(cell)
    values, cells = pd.DataFrame(values), pd.DataFrame(cells)
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    for step in steps:
        column = shown.sign * values[f"{step:g}{in_csv}"]
        # Means of the same numbers in another order differ in the last digits.
        best[f"{step:g}{unit}"] = column >= column.max() - 1e-6 * abs(column.max())
    in_brackets = " In brackets: the bits per weight of its compressed layers." if beside else ""
    caption = (
        f"{subject(frame)}: {in_unit(shown)}. Each entry is the best measured level of the method "
        f"whose {small.words} is at {'least' if small.higher_is_better else 'most'} that of the "
        f"column; {NONE} where none is.{in_brackets}{sentence(coverage(frame))} "
        f"{over_seeds(points)} {dense_words(frame, metric, shown)}"
    )
    if shown.chance is not None:
        caption += f" By chance: {shown.text(shown.chance)}."
    return Table(values, cells, best, caption)


def long_table(frame: pd.DataFrame, size: str = "compression_ratio") -> Table:
    """Every method at every level: sizes, speedups and quality, of those that were measured.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery.
        size: what comes first; see `summary_table`.

    Raises:
        ValueError: as `lowrank.reporting.curves.summarise`.
    """
    import pandas as pd

    own = metrics_of(frame)
    columns = _columns(frame, size)
    points: Any = summarise(frame, columns)
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
                    shown.text(mean, spread)
                    for mean, spread in zip(points[column], points[f"{column}_std"], strict=True)
                ]
                for column, shown in measures.items()
            },
            "seeds": [counted(*both) for both in points[["seeds", "repeats"]].to_numpy()],
        }
    )
    spreads = [name for column in columns for name in (column, f"{column}_std")]
    values = points[["family", "method", *norms, "level", *spreads, "seeds", "repeats"]]
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    told = [f"; {shown.heading}: {shown.words}" for name, shown in measures.items() if name in own]
    caption = (
        f"{subject(frame)}: every measured point. Ratios are dense over compressed, of the whole "
        f"model{''.join(told)}.{sentence(coverage(frame))} "
        f"{over_seeds(points)}"
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


def _best(levels: Any, shown: Metric, columns: Sequence[str]) -> list[float]:
    """The values in `columns` of the level that is best in the first of them."""
    quality = (shown.sign * levels[columns[0]]).dropna()
    if quality.empty:
        return [float("nan")] * len(columns)
    return [float(levels.at[quality.idxmax(), column]) for column in columns]


def _measured(frame: pd.DataFrame, column: str) -> bool:
    """Whether there is something to say of a column: a speedup may be that there is none."""
    timed = column == SPEEDUP and "latency_b1_s" in frame and not all(frame["latency_b1_s"].isna())
    return column in frame and (timed or not all(frame[column].isna()))
