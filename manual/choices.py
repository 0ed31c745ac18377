"""The table for choosing a method: which was best at each size, with and without data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowrank.metrics.metric import NONE, UNITS
from lowrank.records.columns import COSTS
from lowrank.reporting.entries import DAGGER, choose
from lowrank.reporting.tables import STEPS
from manual.catalogue import MethodEntry
from manual.measured import SweepResult
from manual.method_pages import table

SAID = (
    "Of all measured methods and levels at each size or smaller, the one that is best on the "
    "validation split, without and with calibration data. Shown is the metric of the task on the "
    "test split, the mean over that many seeds, with its 95 % interval over "
    "test examples in brackets; ± is the standard deviation over seeds, where no outcomes of "
    "single examples are on record. All methods saw the same examples, so a difference may be real "
    "where intervals overlap: [which differences are real](which-differences-are-real.md)."
)
ON_TEST = (
    f"{DAGGER.strip()}: chosen on the test split itself, which flatters it, for there is no "
    "validation value on record."
)
HEADS = ("sweep", "size", "without data", "with calibration data")


def decision_table(methods: Sequence[MethodEntry], results: Sequence[SweepResult]) -> str:
    """The best measured method of each sweep at each size or smaller, in Markdown.

    Methods that hold more than one method's candidates count like all others.
    """
    rows = [
        row
        for result in results
        if result.compares
        for row in _rows(result, {method.name: method for method in methods})
    ]
    notes = [SAID, *([ON_TEST] if any(DAGGER in cell for row in rows for cell in row) else [])]
    return f"{' '.join(notes)}\n\n{table(HEADS, rows, labels=len(HEADS))}"


def _rows(result: SweepResult, methods: dict[str, MethodEntry]) -> list[list[str]]:
    """The rows of a sweep; sizes with the same choices are one."""
    size = COSTS[result.size]
    points = result.points[result.points["method"].isin(list(methods))]
    reads = points.apply(lambda point: _needs_data(point, methods), axis=1)
    steps: dict[tuple[str, str], list[float]] = {}
    for step in STEPS[size.scale]:
        reached = (points[result.size] - step) * size.sign >= 0
        if not reached.any():
            break
        best = (_best(result, points[reached & ~reads]), _best(result, points[reached & reads]))
        steps.setdefault(best, []).append(step)
    name = f"[{result.folder}](../results/{result.folder}/README.md)"
    unit = UNITS[size.scale][1].replace(" ", "\N{NO-BREAK SPACE}")
    return [
        [name, "–".join(f"{step:g}" for step in dict.fromkeys(ends)) + unit, *best]
        for best, reach in steps.items()
        for ends in [(reach[0], reach[-1])]
    ]


def _needs_data(point: Any, methods: dict[str, MethodEntry]) -> bool:
    """Whether a point read calibration data: its norm says so where it is on record."""
    if isinstance(point["norm"], str) and point["norm"] != "identity":
        return True
    return methods[point["method"]].needs_data


def _best(result: SweepResult, points: Any) -> str:
    """The best point on the validation split, with its value on the test split."""
    entry = choose(points, result.metric)
    if entry.point is None:
        return NONE
    best = points.loc[entry.point]
    name = best["method"]
    return f"[{name}](methods/{name}.md) {result.estimate(best)}{entry.dagger}"
