"""Figures and tables from a folder of records: `python -m experiments.report --help` says how.

Reading records runs nothing that they name; see `experiments.known_tasks` for the one exception,
which has to be asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.composed import composed, on_one_line
from experiments.output import read_by_others
from experiments.required import REPORTS, require
from lowrank.records import store
from lowrank.records.columns import usual_size

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from omegaconf import DictConfig
    from torch import Tensor

    from experiments.report_options import Options
    from lowrank.reporting.table import Table

# The names of figures against a size, if not that of the size.
SIZES = {"compression_ratio": "compression", "layers_bits_per_weight": "bits-per-weight"}
# The reasons why there is no figure against a cost.
DENSE, NOWHERE = "for every compressed layer runs as a dense matrix", "which no record holds"


def main() -> None:
    """The report of the command line; an error is one line on stderr."""
    require("lowrank report", "hydra", *REPORTS)
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
    parts = fitting(chosen, comparisons(frame))
    store.check_writable(chosen.out)
    written: list[Path] = []
    for name, part, own, summary in parts:
        methods = dict(zip(part["path"], part["method"], strict=True))
        rows: Any = layers[layers["path"].isin(methods)]
        rows = rows.assign(method=rows["path"].map(methods))
        written += draw(own, name, part, rows)
        written += tabulate(own, name, part, rows, summary)
    print(f"{len(frame)} records of {chosen.runs}; written to {chosen.out}:")
    for path in written:
        print(f"  {path}")


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
        asked = f"metric={chosen.metric}" if chosen.metric else "a measure of quality"
        raise ValueError(f"no record holds {asked}: there are {', '.join(every) or 'none'}")
    for name, metric in left_out.items():
        print(f"{name}: left out, for its records hold no {metric}")
    return found


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
    from lowrank.reporting.fidelity import class_table, fidelity_table

    for end, table in (("fidelity", fidelity_table), ("classes", class_table)):
        try:
            made = table(part, metric, size)
        except ValueError as error:
            print(f"{start.name}: no table of {end}: {on_one_line(error)}")
        else:
            yield from made.save(f"{start}-{end}")


def draw(chosen: Options, name: str, part: pd.DataFrame, layers: pd.DataFrame) -> Iterator[Path]:
    """Write the figures of one comparison."""
    from lowrank.reporting import plots

    for kind, figure in figures(chosen, name, part, layers):
        yield from plots.save(figure, Path(chosen.out) / f"{name}-{kind}")


def figures(
    chosen: Options, name: str, part: pd.DataFrame, layers: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    """The figures of one comparison, each with the end of its name; says which are left out."""
    from lowrank.reporting import plots
    from lowrank.reporting.captions import title

    metric, size = str(chosen.metric), str(chosen.size)
    against = SIZES.get(size, size.replace("_", "-"))
    yield against, plots.quality_curve(part, size, metric)
    if chosen.close_up is not None:
        close = plots.quality_curve(part, size, metric, span=chosen.close_up)
        yield f"{against}-close-up", close
    if len(part["norm"].unique()) > 1:
        try:
            yield "norms", plots.norm_figure(part, size, metric)
        except ValueError as error:
            print(f"{name}: no figure of the norms: {error}")
    for x in costs(part):
        if x not in part or all(part[x].isna()):
            print(f"{name}: no figure against {x}, {DENSE if x.startswith('speedup') else NOWHERE}")
            continue
        yield x.replace("_", "-"), plots.quality_curve(part, x, metric)
    try:
        yield "layers", plots.layer_figure(layers, at=chosen.layers_at)
    except ValueError as error:
        print(f"{name}: no figure of the layers: {error}")
    if chosen.spectra:
        try:
            found = matrices(Path(part["path"].iloc[0]))
            yield "spectra", plots.spectra(found, title(part))
        except Exception as error:
            # A task without its data or weights may raise any error; everything else is drawn.
            print(f"{name}: no figure of the spectra: {on_one_line(error)}")


def costs(part: pd.DataFrame) -> list[str]:
    """The costs besides the size that quality is drawn against: MACs, trained values, time."""
    held = [str(name) for name in part if not all(part[name].isna())]
    speedups = [str(x) for x in part if str(x).startswith("speedup_")]
    timed = [x for x in speedups if f"latency_{x.removeprefix('speedup_')}_s" in held]
    trained = [] if set(part["dense_recovery"]) == {"none"} else ["trainable_ratio"]
    return ["theoretical_speedup", *trained, *timed]


def matrices(path: Path) -> dict[str, Tensor]:
    """The weights of the dense model of a record, each as a matrix (out, …), by name.

    Raises:
        ValueError: its task is not one of those that are known here; see `trusted_task`.
    """
    from hydra.utils import instantiate

    from experiments.known_tasks import trusted_task

    config = json.loads(path.read_text(encoding="utf-8"))["config"]["task"]
    task = instantiate(trusted_task(config), _convert_="all")
    named = task.model().named_parameters()
    return {
        name.removesuffix(".weight"): weight.detach().flatten(1)
        for name, weight in named
        if weight.ndim >= 2
    }


if __name__ == "__main__":
    with read_by_others():
        main()
