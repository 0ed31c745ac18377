"""What trackers show of a sweep: tables, curves and a figure of each comparison in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.records.companions import outcomes_name

if TYPE_CHECKING:
    from lowrank.reporting.table import Table


@dataclass(frozen=True)
class Shown:
    """One comparison of a sweep.

    Attributes:
        name: such as ``digits-mlp``.
        summary: the best of each method at each size.
        points: every measured point.
        size: the measure of size of the curves, in words.
        curves: measure of quality → method → sizes and means over seeds.
        figure: a PNG of quality against size.
    """

    name: str
    summary: Table
    points: Table
    size: str
    curves: Mapping[str, Mapping[str, tuple[list[float], list[float]]]]
    figure: Path


def shown(folder: str, pictures: Path) -> Iterator[Shown]:
    """Each comparison of the records of `folder`; its figure is written to `pictures`.

    Raises:
        ValueError: a record is broken, or some do not belong together.
    """
    from lowrank.records import store
    from lowrank.records.columns import measure, usual_size
    from lowrank.reporting import curves, plots, tables

    for name, rows in curves.comparisons(store.load(folder, "*.json")):
        metrics, size = curves.quality_measures(rows), usual_size(rows)
        if not metrics:
            continue
        points: Any = curves.summarise(rows, [*metrics, size])
        lines = {str(method): line for method, line in points.groupby("method")}
        png, _ = plots.save(plots.quality_curve(rows, size), pictures / name)
        yield Shown(
            name,
            tables.summary_table(rows, size=size),
            tables.long_table(rows, size),
            measure(rows, size).heading,
            {
                metric: {
                    method: (line[size].tolist(), line[metric].tolist())
                    for method, line in lines.items()
                }
                for metric in metrics
            },
            png,
        )


def record_files(folder: str) -> list[Path]:
    """The files of all records of a sweep, and of the outcomes of their examples."""
    records = sorted(Path(folder).glob("*.json"))
    outcomes = [path.with_name(outcomes_name(path.stem)) for path in records]
    return [*records, *(path for path in outcomes if path.is_file())]
