"""Figures and tables from a folder of records: `python -m experiments.report --help` says how.

Reading records runs nothing that they name; see `experiments.known_tasks` for the one exception,
which has to be asked for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.composed import composed, on_one_line
from experiments.output import read_by_others
from experiments.report_figures import draw
from experiments.report_tasks import across_tasks
from experiments.required import REPORTS, require
from lowrank.records import store
from lowrank.records.columns import usual_size

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

    from experiments.report_options import Options
    from lowrank.reporting.compare import Comparison
    from lowrank.reporting.table import Table

# More sentences of a comparison than these are not printed.
MOST_LINES = 30


def main() -> None:
    """The report of the command line; an error is one line on stderr."""
    require("lowrank report", "hydra", *REPORTS)
    sys.argv[1:] = [as_list(argument) for argument in sys.argv[1:]]
    composed(report, "report")


def report(config: DictConfig) -> None:
    """Draw and tabulate the records of ``config.runs`` into ``config.out``, and name the files.

    Raises:
        ValueError: an option cannot be, there are no records, one is broken, those of one method do
            not belong together, or `out` cannot be written.
    """
    from experiments.report_options import options
    from lowrank.reporting.curves import comparisons

    chosen = options(config)
    frame, layers = store.load_both(chosen.runs)
    if chosen.across_tasks:
        return say_written(chosen, len(frame), across_tasks(chosen, frame))
    every, settings = tuned(chosen, of_methods(chosen, comparisons(frame)))
    parts = fitting(chosen, every)
    compared = comparisons_of(parts)
    store.check_writable(chosen.out)
    written: list[Path] = []
    for name, part, own, summary in parts:
        methods = dict(zip(part["path"], part["method"], strict=True))
        rows: Any = layers[layers["path"].isin(methods)]
        rows = rows.assign(method=rows["path"].map(methods))
        written += draw(own, name, part, rows)
        written += tabulate(own, name, part, rows, summary)
        if name in settings:
            print(settings[name].to_markdown())
            written += settings[name].save(Path(own.out) / f"{name}-settings")
        if name in compared:
            written += conclude(own, name, compared[name])
    if chosen.html:
        written.append(explore(chosen, frame, layers))
    say_written(chosen, len(frame), written)


def say_written(chosen: Options, records: int, written: list[Path]) -> None:
    """Name the files of a report."""
    print(f"{records} records of {chosen.runs}; written to {chosen.out}:")
    for path in written:
        print(f"  {path}")


def of_methods(
    chosen: Options, parts: list[tuple[str, pd.DataFrame]]
) -> list[tuple[str, pd.DataFrame]]:
    """The comparisons with the chosen methods only, those without one of them left out.

    Raises:
        ValueError: a method has no record.
    """
    if chosen.methods is None:
        return parts
    found = sorted({name for _, part in parts for name in part["method"]})
    unknown = [name for name in chosen.methods if name not in found]
    if unknown:
        raise ValueError(f"no record has method {unknown[0]!r}: there are {', '.join(found)}")
    kept = [(name, part[part["method"].isin(chosen.methods)]) for name, part in parts]
    return [(name, part) for name, part in kept if len(part)]  # type: ignore[misc]


def tuned(
    chosen: Options, parts: list[tuple[str, pd.DataFrame]]
) -> tuple[list[tuple[str, pd.DataFrame]], dict[str, Table]]:
    """The comparisons with each method at its best settings, and tables that name these.

    Raises:
        ValueError: a setting or a measure on the validation split is missing.
    """
    from lowrank.reporting.curves import quality_measures
    from lowrank.reporting.settings import at_best_settings

    if chosen.tuned is None:
        return parts, {}
    found, tables = [], {}
    for name, part in parts:
        metric = chosen.metric or next(iter(quality_measures(part)), "")
        best, tables[name] = at_best_settings(part, chosen.tuned, metric)
        found.append((name, best))
    return found, tables


def as_list(argument: str) -> str:
    """A word of the command line; ``compare=a,b`` as a list, for Hydra takes commas for a sweep.

    Names of methods are quoted, since they may have blanks and brackets, as ``svd (full)`` has.
    """
    from experiments.report_options import LISTS

    name, given, value = argument.partition("=")
    if name not in LISTS or not given or value in ("", "null") or value[0] in "[\"'":
        return argument
    return f"{name}={json.dumps(value.split(','), ensure_ascii=False)}"


def fitting(
    chosen: Options, parts: list[tuple[str, pd.DataFrame]]
) -> list[tuple[str, pd.DataFrame, Options, Table]]:
    """The comparisons that can be shown, each with its own metric and size, and its summary.

    Raises:
        ValueError: none has the metric, or the records of one cannot be compared.
    """
    from lowrank.reporting.curves import quality_measures
    from lowrank.reporting.tables import summary_table

    found, left_out = [], {}
    for name, part in parts:
        held = quality_measures(part)
        metric = chosen.metric or next(iter(held), None)
        if metric in held:
            own = replace(chosen, metric=metric, size=chosen.size or usual_size(part))
            # Whatever cannot be compared is found before anything is written.
            found.append((name, part, own, summary_table(part, metric, str(own.size))))
        else:
            left_out[name] = metric or "measure of quality"
    if not found:
        every = dict.fromkeys(name for _, part in parts for name in quality_measures(part))
        raise ValueError(_not_held(chosen.metric, list(every)))
    for name, metric in left_out.items():
        print(f"{name}: left out, for its records hold no {metric}")
    return found


def _not_held(metric: str | None, every: list[str]) -> str:
    """Why no record can be shown by a metric, of which `every` can be."""
    there = f"there are {', '.join(every) or 'none'}"
    if metric is None:
        return f"no record holds a measure of quality: {there}"
    own = metric.removeprefix("validation_")
    if own != metric and own in every:
        return (
            f"metric={metric} is measured on the validation split, on which levels are chosen: "
            f"tables and figures show the test split, so give metric={own}"
        )
    return f"no record holds metric={metric}: {there}"


def comparisons_of(
    parts: list[tuple[str, pd.DataFrame, Options, Table]],
) -> dict[str, Comparison]:
    """The comparisons that were asked for, by name; says where there is none.

    Raises:
        ValueError: they cannot be made of any part; the text is that of the first.
    """
    from lowrank.reporting.compare import compare

    found, left_out = {}, {}
    for name, part, own, _ in parts:
        if own.compare is None:
            continue
        try:
            found[name] = compare(part, *own.compare, metric=own.metric, size=own.size)
        except ValueError as error:
            left_out[name] = error
    if left_out and not found:
        raise next(iter(left_out.values()))
    for name, error in left_out.items():
        print(f"{name}: not compared: {on_one_line(error)}")
    return found


def conclude(chosen: Options, name: str, comparison: Comparison) -> Iterator[Path]:
    """Write a comparison as table and sentences, and print the sentences."""
    from lowrank.reporting.table import write

    start = f"{Path(chosen.out) / name}-compare"
    yield from comparison.table.save(start)
    yield write(Path(f"{start}.txt"), f"{comparison}\n")
    lines = comparison.sentences
    shown = lines if len(lines) <= MOST_LINES else lines[:0]
    for line in shown:
        print(line)
    if not shown:
        print(f"{name}: {len(lines)} pairs of methods compared, in words in {start}.txt")
    print()


def tabulate(
    chosen: Options, name: str, part: pd.DataFrame, layers: pd.DataFrame, summary: Table
) -> Iterator[Path]:
    """Write the tables of one comparison and print the short ones."""
    from lowrank.reporting.norm_table import norm_table
    from lowrank.reporting.table import csv_text, write
    from lowrank.reporting.tables import long_table

    metric, size = str(chosen.metric), str(chosen.size)
    start = Path(chosen.out) / name
    print(summary.to_markdown())
    yield from summary.save(f"{start}-summary")
    yield from long_table(part, size).save(f"{start}-points")
    if len(part["norm"].unique()) > 1:
        try:
            norms = norm_table(part, metric, size)
        except ValueError as error:
            print(f"{name}: no table of the norms: {error}")
        else:
            print(norms.to_markdown())
            yield from norms.save(f"{start}-norms")
    yield from hidden(start, part, metric, size)
    yield write(Path(f"{start}-layers.csv"), csv_text(layers))


def hidden(start: Path, part: pd.DataFrame, metric: str, size: str) -> Iterator[Path]:
    """Write the tables of what the average hides, from the outcomes beside the records."""
    from lowrank.reporting import fidelity

    tables = {
        "fidelity": fidelity.fidelity_table,
        "classes": fidelity.class_table,
        "losses": fidelity.loss_table,
    }
    for end, table in tables.items():
        try:
            made = table(part, metric, size)
        except fidelity.NotDefined:
            continue  # Few tasks have both classes and tokens.
        except ValueError as error:
            print(f"{start.name}: no table of {end}: {on_one_line(error)}")
        else:
            yield from made.save(f"{start}-{end}")


def explore(chosen: Options, frame: pd.DataFrame, layers: pd.DataFrame) -> Path:
    """Write the page on which the records can be looked up."""
    from experiments.again import command_of_each
    from lowrank.reporting import explorer
    from lowrank.reporting.table import write

    title = Path(chosen.runs).resolve().name
    page = explorer.page(frame, layers, command_of_each(frame), title)
    return write(Path(chosen.out) / "explorer.html", page)


if __name__ == "__main__":
    with read_by_others():
        main()
