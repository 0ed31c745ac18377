"""Figures and tables from a folder of records; see conf/report/report.yaml for what can be set."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from lowrank import results
from lowrank.curves import comparisons

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

# How figures against a size are called, if not by its name.
SIZES = {"compression_ratio": "compression", "layers_bits_per_weight": "bits-per-weight"}


@hydra.main(version_base=None, config_path="../conf/report", config_name="report")
def main(config: DictConfig) -> None:
    try:
        report(config)
    except ValueError as error:
        sys.exit(f"report: {error}")


def report(config: DictConfig) -> None:
    """Draw and tabulate the records of ``config.runs`` into ``config.out``, and name the files.

    Raises:
        ValueError: there are no records, one is broken, or `out` cannot be written.
    """
    frame = results.load(config.runs)
    layers: Any = results.load_layers(config.runs)
    results.check_writable(config.out)
    written: list[Path] = []
    for name, part in comparisons(frame):
        names = dict(zip(part["key"], part["method"], strict=True))
        own = layers[layers["key"].isin(names)]
        own = own.assign(method=own["key"].map(names))
        written += draw(config, name, part, own)
        written += tabulate(config, name, part)
        written.append(Path(config.out) / f"{name}-layers.csv")
        own.to_csv(written[-1], index=False)
    print(f"{len(frame)} records of {config.runs}; written to {config.out}:")
    for path in written:
        print(f"  {path}")


def tabulate(config: DictConfig, name: str, part: pd.DataFrame) -> list[Path]:
    """Write the tables of one comparison and print the short ones."""
    from lowrank.norm_table import norm_table
    from lowrank.tables import long_table, summary_table

    start = Path(config.out) / name
    summary = summary_table(part, config.metric, config.size)
    print(summary.to_markdown())
    written = [
        *summary.save(f"{start}-summary"),
        *long_table(part, config.size).save(f"{start}-points"),
    ]
    if len(part["norm"].unique()) > 1:
        try:
            norms = norm_table(part, config.metric, config.size)
        except ValueError as error:
            print(f"{name}: no table of the norms: {error}")
        else:
            print(norms.to_markdown())
            written += norms.save(f"{start}-norms")
    return written


def draw(config: DictConfig, name: str, part: pd.DataFrame, layers: pd.DataFrame) -> Iterator[Path]:
    """Write the figures of one comparison."""
    from lowrank import plots

    for kind, figure in figures(config, name, part, layers):
        yield from plots.save(figure, Path(config.out) / f"{name}-{kind}")


def figures(
    config: DictConfig, name: str, part: pd.DataFrame, layers: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    """The figures of one comparison, each with the end of its name; says which are left out."""
    from lowrank import plots

    against = SIZES.get(config.size, str(config.size).replace("_", "-"))
    yield against, plots.quality_curve(part, config.size, config.metric)
    if config.close_up is not None:
        close = plots.quality_curve(part, config.size, config.metric, span=config.close_up)
        yield f"{against}-close-up", close
    if len(part["norm"].unique()) > 1:
        try:
            yield "norms", plots.norm_figure(part, config.size, config.metric)
        except ValueError as error:
            print(f"{name}: no figure of the norms: {error}")
    speedups = [
        x for x in part if x.startswith("speedup_b") and x.removeprefix("speedup_b").isdigit()
    ]
    trained = [] if set(part["dense_recovery"]) == {"none"} else ["trainable_ratio"]
    for x in ("theoretical_speedup", *trained, *speedups):
        if x not in part or all(part[x].isna()):
            print(f"{name}: no figure against {x}, which no record holds")
            continue
        yield x.replace("_", "-"), plots.quality_curve(part, x, config.metric)
    try:
        yield "layers", plots.layer_figure(layers, at=config.layers_at)
    except ValueError as error:
        print(f"{name}: no figure of the layers: {error}")
    if config.spectra:
        try:
            yield "spectra", plots.spectra(matrices(Path(part["path"].iloc[0])))
        except Exception as error:
            # Whatever a task may raise whose data or weights are not at hand; all else is drawn.
            print(f"{name}: no figure of the spectra: {type(error).__name__}: {error}")


def matrices(path: Path) -> dict[str, Tensor]:
    """The weights of the dense model of a record, each as a matrix (out, …), by name.

    Makes the task that the record's config names: read only records that you trust.
    """
    task = hydra.utils.instantiate(json.loads(path.read_text())["config"]["task"], _convert_="all")
    named = task.model().named_parameters()
    return {
        name.removesuffix(".weight"): weight.detach().flatten(1)
        for name, weight in named
        if weight.ndim >= 2
    }


if __name__ == "__main__":
    main()
