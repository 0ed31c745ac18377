"""Curves of records: mean and spread over seeds, and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank.files.names import stems
from lowrank.records.columns import COSTS, metrics_of
from lowrank.records.meaning import one_meaning
from lowrank.records.repeats import POINT, dense_of_their_own, is_timed, of_their_own

if TYPE_CHECKING:
    import pandas as pd

# The columns in which all points of one figure or table agree.
COMPARISON = ("task", "model", "dense_recovery")
# The norms from left to right in the table of methods, each with more knowledge of the inputs.
NORMS = ("identity", "diagonal", "full")


def summarise(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Mean and spread over the seeds of each measured point of one task, model and recovery.

    A mean needs the value of every seed: a point measured with fewer is NaN. Seeds with the same
    numbers (see `of_their_own`) count once, so that equal repetitions do not show a spread of zero;
    times, which differ in every run, are averaged over all seeds.

    Args:
        frame: rows of `lowrank.records.store.load`.
        columns: the measures to average.

    Returns:
        A row per point: method, family, norm, level, point, ``seeds`` (how many count),
        ``repeats`` (how many there are, with those that gave the same numbers again), each of
        `columns` as its mean and, with ``_std``, as its sample standard deviation (NaN for one
        seed). Ordered by family, method and compression ratio.

    Raises:
        ValueError: `frame` is empty, mixes tasks, models or recoveries, lacks a column, holds a
            point twice with the same seed, or calls different things by the name of one method;
            see `one_meaning`.
    """
    one_comparison(frame)
    one_meaning(frame)
    wanted = list(dict.fromkeys([*columns, "compression_ratio"]))
    names = [column for column in wanted if column in POINT]
    if names:
        raise ValueError(f"{names[0]} is no measure: it names a point")
    missing = [column for column in wanted if column not in frame]
    if missing:
        held = ", ".join(name for name in (*COSTS, *metrics_of(frame)) if name in frame)
        raise ValueError(
            f"the records hold no {', '.join(missing)}: take what they hold ({held}), or measure it"
        )
    check_once(frame, "key")
    values: Any = frame.assign(**{name: _numbers(frame, name) for name in wanted})
    own: Any = of_their_own(values)
    parts = [
        _means(own, [name for name in wanted if not is_timed(name)]),
        _means(values, [name for name in wanted if is_timed(name)]),
        own.groupby(list(POINT), dropna=False).size().rename("seeds"),
        values.groupby(list(POINT), dropna=False).size().rename("repeats"),
    ]
    means = parts[0].join(parts[1:]).reset_index()
    return means.sort_values(["family", "method", "compression_ratio"], ignore_index=True)


def check_once(frame: pd.DataFrame, column: str) -> None:
    """Raise ValueError if a point has two records that are alike in a column."""
    repeated: Any = frame[frame.duplicated([*POINT, column])]
    if len(repeated):
        again = repeated.iloc[0]
        raise ValueError(
            f"method {again['method']} at level {again['level']} has seed {again['seed']} more "
            "than once. The records of several sweeps are mixed: read one folder at a time."
        )


def _numbers(frame: Any, column: str) -> Any:
    try:
        return frame[column].astype(float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{column} is no measure: the records hold texts in it") from error


def _means(rows: Any, columns: list[str]) -> Any:
    """Means of columns over the rows of each point, and sample standard deviations (``_std``)."""
    groups = rows.groupby(list(POINT), dropna=False)[columns]
    return groups.mean(skipna=False).join(groups.std(skipna=False).add_suffix("_std"))


def dense_baseline(frame: pd.DataFrame, column: str) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds of a measure of the dense model.

    Every record of a seed carries its dense model, so each seed counts once; and seeds whose dense
    models have the same numbers, as published weights do, count once together. The deviation is NaN
    for one seed, and for what the dense model has by definition, as no divergence from itself.

    Raises:
        ValueError: as `summarise`.
    """
    one_comparison(frame)
    known = metrics_of(frame).get(column)
    if known is not None and known.dense is not None:
        return known.dense, float("nan")
    if f"dense_{column}" not in frame or all(frame[f"dense_{column}"].isna()):
        raise ValueError(f"the records hold no {column} of the dense model")
    values: Any = frame.astype({f"dense_{column}": float})
    seeds = values.groupby("seed")[f"dense_{column}"].mean()[dense_of_their_own(frame)]
    return float(seeds.mean()), float(seeds.std())


def quality_measures(frame: pd.DataFrame) -> list[str]:
    """The task's metrics of which the records hold a value, and one of the dense model.

    In the task's order: by the first it judges.
    """
    held = {str(name) for name in frame if not all(frame[name].isna())}
    return [
        name
        for name, metric in metrics_of(frame).items()
        if name in held and (f"dense_{name}" in held or metric.dense is not None)
    ]


def first_measure(frame: pd.DataFrame) -> str:
    """The metric by which the task judges; the next where no model has a value of it.

    Raises:
        ValueError: the records hold no measure of quality, or `frame` is empty.
    """
    one_comparison(frame)
    held = quality_measures(frame)
    if not held:
        named = ", ".join(metrics_of(frame))
        raise ValueError(f"the records hold no value of what their task measures ({named})")
    return held[0]


def pareto_front(x: Any, y: Any, higher_is_better: bool = True) -> np.ndarray:
    """The Pareto-optimal points: higher `x` is better, and higher (or lower) `y`.

    Where lower x is better, as of bits per weight, pass x with its sign changed.

    A point is dominated by one that is as good in both and better in one. NaN is never on the
    front.

    Args:
        x: shape (n,).
        y: shape (n,).
        higher_is_better: whether more `y` is better, as accuracy, or worse, as a loss.

    Returns:
        Booleans of shape (n,).
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not higher_is_better:
        y = -y
    as_good = (x[:, None] >= x) & (y[:, None] >= y)
    better = (x[:, None] > x) | (y[:, None] > y)
    return ~(as_good & better).any(axis=0) & np.isfinite(x) & np.isfinite(y)


def comparisons(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The parts of `frame` that can be compared, each with a name such as ``digits-mlp``.

    Each has one task, one model and one recovery of the dense model, and its methods have distinct
    names (`with_distinct_names`). So a model tuned toward the dense outputs, which leaves the dense
    model as it is, stands beside one that was not tuned. The name carries the recovery unless that
    is "none", and can begin the name of a file; see `stems`.
    """
    groups: Any = frame.groupby(list(COMPARISON), dropna=False)
    parts = {tuple(map(str, words)): with_distinct_names(part) for words, part in groups}
    names = [[*words[:2]] + ([] if words[2] == "none" else [words[2]]) for words in parts]
    return list(zip(stems(names), parts.values(), strict=True))


def with_distinct_names(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows; a method that occurs in several norms is named with its norm: ``svd (full)``.

    A method that was calibrated both at once and block by block (sequentially) is named with that:
    ``svd (full, sequential)``. A method that occurs in one way keeps its plain name.

    A method with a recovery that the dense model did not have is named with it: ``gptq + tune``.
    """
    ways: Any = frame["norm"].astype(str)
    if "norm.mode" in frame:
        ways = ways.where(frame["norm.mode"] != "sequential", ways + ", sequential")
    methods: Any = frame["method"]
    several = ways.groupby(methods).transform("nunique") > 1
    named = methods.where(~several, methods + " (" + ways + ")")
    own = frame["recovery"] != frame["dense_recovery"]
    return frame.assign(method=named.where(~own, named + " + " + frame["recovery"]))


def norms_in_order(labels: Iterable[str]) -> list[str]:
    """The norms of `NORMS` that are among `labels`, in that order, and then the others by name."""
    found = set(labels)
    return [name for name in NORMS if name in found] + sorted(found - set(NORMS))


def in_several_norms(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the families that were compressed in more than one norm.

    Without allocations, which give each layer its own level, and models with a recovery of
    their own: a gain of theirs is none of a norm.

    Raises:
        ValueError: there is no such family, or as `one_comparison`.
    """
    one_comparison(frame)
    is_own = frame["allocates"] | (frame["recovery"] != frame["dense_recovery"])
    frame = frame[~is_own]  # type: ignore[assignment]
    counts: Any = frame.groupby("family", dropna=False)["norm"].transform("nunique")
    rows: Any = frame[counts > 1]
    if rows.empty:
        found = ", ".join(norms_in_order(frame["norm"]))
        raise ValueError(
            f"no family was compressed in more than one norm (found: {found}), so there is nothing "
            "to set side by side; sweep its methods in two norms or more"
        )
    return rows


def one_comparison(frame: pd.DataFrame) -> None:
    """Raise ValueError unless `frame` has rows, all of one task, model and recovery."""
    if frame.empty:
        raise ValueError("there is no record to show: the selection left none")
    for name in COMPARISON:
        found = sorted(map(str, frame[name].unique()))
        if len(found) > 1:
            raise ValueError(
                f"the records mix {len(found)} values of {name!r} ({', '.join(found)}), which "
                f"cannot be compared; select one, such as frame[frame.{name} == {found[0]!r}]"
            )
    if not frame.index.is_unique:
        raise ValueError(
            "several rows have the same index, as pd.concat leaves them: give "
            "frame.reset_index(drop=True)"
        )
