"""The figures of a report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.composed import on_one_line

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from experiments.report_options import Options

# The names of figures against a size, if not that of the size.
SIZES = {"compression_ratio": "compression", "layers_bits_per_weight": "bits-per-weight"}
# The reasons why there is no figure against a cost.
DENSE, NOWHERE = "for every compressed layer runs as a dense matrix", "which no record holds"


def draw(chosen: Options, name: str, part: pd.DataFrame, layers: pd.DataFrame) -> Iterator[Path]:
    """Write the figures of one comparison."""
    from experiments.paper import print_curves
    from lowrank.reporting import plots

    for kind, figure in figures(chosen, name, part, layers):
        yield from plots.save(figure, Path(chosen.out) / f"{name}-{kind}")
    if chosen.paper is not None:
        yield from print_curves(chosen, name, part, views(chosen, part))


def figures(
    chosen: Options, name: str, part: pd.DataFrame, layers: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    """The figures of one comparison, each with the end of its name; says which are left out."""
    from lowrank.reporting import plots
    from lowrank.reporting.captions import title

    metric, size = str(chosen.metric), str(chosen.size)
    for kind, (x, span) in views(chosen, part).items():
        yield kind, plots.quality_curve(part, x, metric, span=span)
    for x in costs(part):
        if not is_held(part, x):
            print(f"{name}: no figure against {x}, {DENSE if x.startswith('speedup') else NOWHERE}")
    if len(part["norm"].unique()) > 1:
        try:
            yield "norms", plots.norm_figure(part, size, metric)
        except ValueError as error:
            print(f"{name}: no figure of the norms: {error}")
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


def views(chosen: Options, part: pd.DataFrame) -> dict[str, tuple[str, float | None]]:
    """The figures of quality: the end of the name of each → its x and, of a close-up, its span."""
    size = str(chosen.size)
    against = SIZES.get(size, size.replace("_", "-"))
    found: dict[str, tuple[str, float | None]] = {against: (size, None)}
    if chosen.close_up is not None:
        found[f"{against}-close-up"] = size, chosen.close_up
    return found | {x.replace("_", "-"): (x, None) for x in costs(part) if is_held(part, x)}


def is_held(part: pd.DataFrame, column: str) -> bool:
    """Whether a record holds a value of a column."""
    return column in part and not all(part[column].isna())


def costs(part: pd.DataFrame) -> list[str]:
    """The costs besides the size that quality is drawn against: MACs, trained values, time."""
    held = [str(name) for name in part if not all(part[name].isna())]
    speedups = [str(x) for x in part if str(x).startswith("speedup_")]
    timed = [x for x in speedups if f"latency_{x.removeprefix('speedup_')}_s" in held]
    trained = [] if set(part["dense_recovery"]) == {"none"} else ["trainable_ratio"]
    return ["theoretical_speedup", *trained, *timed]


def matrices(path: Path) -> dict[str, Tensor]:
    """The weights of the dense model of a record, each as a matrix (out, in), by layer.

    Raises:
        ValueError: its task is not one of those that are known here; see `trusted_task`.
    """
    from experiments.known_tasks import task_of
    from lowrank.model.opened import open_weights
    from lowrank.model.sites import find_sites

    record = json.loads(path.read_text(encoding="utf-8"))
    model = open_weights(task_of(record).model()).model
    return {site.name: site.matrix() for site in find_sites(model)}
