"""Comparisons of methods, paired by test example: which differences are real."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank.metrics.metric import Metric
from lowrank.records.columns import measure, metrics_of, usual_size
from lowrank.records.meaning import one_meaning
from lowrank.reporting.curves import check_once, first_measure, one_comparison
from lowrank.reporting.evidence import Evidence, Reading, evidence
from lowrank.reporting.table import Table
from lowrank.reporting.verdicts import ALPHA, Verdict, sentences, table
from lowrank.statistics.hypotheses import (
    examples_needed,
    examples_needed_by,
    fewest_examples,
    holm,
)
from lowrank.statistics.interpolation import common_sizes, is_same_size, shares
from lowrank.statistics.resampling import RESAMPLES

if TYPE_CHECKING:
    import pandas as pd

EVERY = "all"


@dataclass(frozen=True)
class Comparison:
    """The verdicts on methods, as a table and as sentences.

    Attributes:
        verdicts: each pair of methods at each of their sizes.
        table: the same, to be saved as CSV, Markdown and LaTeX.
        sentences: one for each pair of methods, and one for pairs that have no size in common.
    """

    verdicts: tuple[Verdict, ...]
    table: Table
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def compare(
    frame: pd.DataFrame,
    *methods: str,
    metric: str | None = None,
    size: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Whether methods differ, judged on the same test examples.

    Two methods are compared at the sizes of their measured points, where both have one (within
    1 %) or one lies between two measured points of the other. There the other is interpolated,
    linearly in the logarithm of the size (and of a metric like perplexity); nothing is
    extrapolated. Two measured points of one seed whose examples are right or wrong are tested
    exactly (McNemar), other measured points by flipping the signs of the differences of examples,
    each with all seeds that saw it; interpolated values and five seeds or more by Student's t.
    Errors and intervals are those of a bootstrap of the test examples, which interpolates both
    curves inside each resample, and from five seeds on those of Student's t. All p-values of one
    call are corrected together (Holm): if no methods differ, the probability of any claim is about
    5 % at most.

    With fewer than five seeds the claims are about these networks and other test examples of the
    same kind; from five on they are about other seeds as well.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery, with their
            outcomes beside the records.
        methods: their names, two or more; ``all``, or none, for every method.
        metric: that by which the task judges, if not given.
        size: what is compared at equal values, such as ``compression_ratio`` or
            ``layers_bits_per_weight``; the usual one for these records, if not given.
        resamples, seed: of the bootstrap; the same give the same numbers.

    Raises:
        ValueError: the records mix tasks, models or recoveries; a method is not there, or it is
            one alone; the metric is no average over examples; a record has no outcomes; the test
            examples cannot be paired; no two methods have a size in common.
    """
    one_comparison(frame)
    names = _names(frame, methods)
    chosen: Any = frame[frame["method"].isin(names)]
    one_meaning(chosen)
    check_once(chosen, "seed")
    shown = measure(frame, metric or first_measure(frame))
    _check_average(frame, shown)
    small = measure(frame, size or usual_size(frame))
    # A point that lacks the value of a seed has no mean, as in the other tables.
    has = chosen[[shown.name, small.name]].notna().all(axis=1) & (chosen[small.name] > 0)
    chosen = chosen[has.groupby(chosen["point"]).transform("all")]
    names = _with_values(names, set(chosen["method"]), shown, small, _is_every(methods))
    known = evidence(chosen, shown, resamples, seed)
    curves = {name: _curve(chosen[chosen["method"] == name], small.name) for name in names}
    found, apart = [], []
    for first, second in itertools.combinations(names, 2):
        tested = list(_at_common_sizes(known, curves[first], curves[second]))
        found += [(first, second, *one) for one in tested]
        if not tested:
            apart.append((first, second))
    if not found:
        raise ValueError(_no_size(apart, curves, small))
    verdicts = _verdicts(found, shown, known.examples)
    about = verdicts, shown, small, known.examples
    return Comparison(verdicts, table(frame, *about, resamples), sentences(*about, apart))


@dataclass(frozen=True)
class _Curve:
    """The measured points of one method: their mean sizes, and their record of each seed."""

    sizes: np.ndarray
    rows: Sequence[dict[Any, Any]]

    def reading(self, at: float) -> Reading:
        """The shares of the records in the value at a size, for each seed that has them all."""
        found = {row: share for row, share in enumerate(shares(self.sizes, at)) if share > 0}
        parts = [self.rows[point] for point in found]
        seeds = [seed for seed in parts[0] if all(seed in part for part in parts)]
        return {
            seed: {self.rows[point][seed]: share for point, share in found.items()}
            for seed in seeds
        }

    def is_measured(self, at: float) -> bool:
        return any(is_same_size(float(size), at) for size in self.sizes)


def _curve(rows: Any, size: str) -> _Curve:
    groups = [group for _, group in rows.groupby("point")]
    return _Curve(
        np.array([group[size].astype(float).mean() for group in groups]),
        [dict(zip(group["seed"], group.index, strict=True)) for group in groups],
    )


def _at_common_sizes(known: Evidence, first: _Curve, second: _Curve) -> Any:
    """Each common size of two curves, which are measured there, and the test."""
    for at in common_sizes(first.sizes, second.sizes):
        tested = known.test(first.reading(at), second.reading(at))
        if tested is not None:
            yield at, (first.is_measured(at), second.is_measured(at)), tested


def _verdicts(found: Sequence[Any], shown: Metric, examples: int) -> tuple[Verdict, ...]:
    corrected = holm(np.array([tested.difference.p for *_, tested in found]))
    verdicts = []
    for (first, second, at, measured, tested), p in zip(found, corrected, strict=True):
        one = tested.difference
        # At the level that Holm's correction asks of the smallest p-value: so a difference that was
        # not told needs more examples than there are.
        fixed = float(np.sqrt(max(0.0, one.error**2 - one.between**2)))
        alpha = ALPHA / len(found)
        needed = examples_needed(examples, one.value, fixed, one.between, alpha)
        if p >= ALPHA and needed <= examples:
            # The test that was made asks for more than the normal law.
            needed = examples_needed_by(examples, one.p, alpha)
        needed = max(needed, fewest_examples(alpha))
        verdicts.append(Verdict(first, second, at, measured, tested, shown.sign, float(p), needed))
    return tuple(verdicts)


def _is_every(methods: Sequence[str]) -> bool:
    """Whether names of methods stand for all of them."""
    return not methods or EVERY in methods


def _with_values(
    names: Sequence[str], held: set[str], shown: Metric, small: Metric, every: bool
) -> list[str]:
    """The methods that have values; those of `every` method that have none are left out."""
    found = [name for name in names if name in held]
    lacking = [name for name in names if name not in held]
    if len(found) < 2 or (lacking and not every):
        raise ValueError(
            f"no record of {', '.join(lacking)} has both {shown.name} and {small.name}, so there "
            "is nothing to compare: measure them, or take another metric or size"
        )
    return found


def _names(frame: Any, methods: Sequence[str]) -> list[str]:
    held = sorted(frame["method"].unique())
    names = held if _is_every(methods) else list(dict.fromkeys(methods))
    unknown = [name for name in names if name not in held]
    if unknown:
        raise ValueError(f"no record is of method {unknown[0]!r}: there are {', '.join(held)}")
    if len(names) < 2:
        raise ValueError(
            f"{names[0]!r} is one method alone: name another to compare it with"
            + (f", of {', '.join(name for name in held if name not in names)}" if held[1:] else "")
        )
    return names


def _check_average(frame: Any, shown: Metric) -> None:
    """Raise ValueError unless the metric is one of the task's that average over examples."""
    known = metrics_of(frame)
    if known.get(shown.name) is None or shown.average is None:
        averages = ", ".join(name for name, metric in known.items() if metric.average)
        raise ValueError(
            f"metric={shown.name!r} is no average over test examples, which a paired test needs: "
            f"take one that is ({averages or 'this task has none'})"
        )


def _no_size(apart: Any, curves: Any, small: Metric) -> str:
    first, second = apart[0]
    ends = [
        f"{name} from {small.text(curves[name].sizes.min())} to "
        f"{small.text(curves[name].sizes.max())}"
        for name in (first, second)
    ]
    seeds = [{seed for row in curves[name].rows for seed in row} for name in (first, second)]
    if not seeds[0] & seeds[1]:
        return f"{first} and {second} have no seed in common, so no networks can be compared"
    return (
        f"{first} and {second} have no {small.heading} in common ({', '.join(ends)}), and nothing "
        "is extrapolated: measure them at sizes that overlap"
    )
