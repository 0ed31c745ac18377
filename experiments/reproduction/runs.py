"""The runs of a published table: started where something is missing, and read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.reproduction.entry import Run
from lowrank.records import store
from lowrank.records.repeats import outcome_numbers

if TYPE_CHECKING:
    import pandas as pd

    from experiments.reproduction.programs import Program

RUNS = Path("results/runs")
TOTAL = "total"
# The ends of the names of columns that add up over layers.
SIZES = ("bytes", "params", "macs", "kept", "entries")


def command(run: Run) -> list[str]:
    """The command that makes the records of a sweep; empty for a program, which has none."""
    return ["python", "-m", "experiments.sweep", *run.sweep] if run.sweep else []


def folder(table: str, name: str, run: Run) -> Path:
    """Where the records of a run lie."""
    return RUNS / run.sweep_name if run.sweep else RUNS / "reproduced" / table / name


def start(table: str, name: str, run: Run) -> None:
    """Measure what is missing of a run.

    Raises:
        ValueError: points of its sweep failed, or the settings of its program cannot be.
    """
    if not run.sweep:
        program(run).run(folder(table, name, run))
        return
    # In a process of its own, as Hydra runs one program in each.
    ended = subprocess.run([sys.executable, *command(run)[1:]])
    if ended.returncode:
        raise ValueError(f"the sweep of run {name!r} ended with an error, which it printed above")


def program(run: Run) -> Program:
    """The program that a run names.

    Raises:
        ValueError: what it names is no `Program`, or its settings cannot be.
    """
    from hydra.errors import InstantiationException

    from experiments.parts import make
    from experiments.reproduction.programs import Program

    try:
        made = make(run.program)
    except InstantiationException as error:
        raise ValueError(f"{error.__cause__ or error}") from error
    if not isinstance(made, Program):
        raise ValueError(f"{run.program['_target_']} must be a Program, and is {made!r:.80}")
    return made


def frame(table: str, name: str, run: Run) -> pd.DataFrame | None:
    """The records, layers or cases of a run that are there, one row each; None if there are none.

    Raises:
        ValueError: a record is broken.
    """
    place = folder(table, name, run)
    if run.program:
        cases = program(run).load(place)
        return None if cases.empty else cases
    if not any(place.glob("**/*.json")):
        return None
    records = store.load(place)
    if run.of == "points":
        return records
    # Layers of two networks may be alike in all sizes: their records tell the networks apart.
    numbers = outcome_numbers(records)
    networks: Any = {path: numbers[row] for row, path in records["path"].items()}
    layers = store.load_layers(place)
    return with_totals(layers.assign(network=layers["path"].map(networks)))


def with_totals(layers: pd.DataFrame) -> pd.DataFrame:
    """Rows of layers, and for each of their records one named ``total`` with the sums of sizes."""
    import pandas as pd

    totals = layers.drop_duplicates("path").assign(name=TOTAL)
    sizes = [name for name in layers if str(name).endswith(SIZES)]
    sums: Any = layers.groupby("path")[sizes].sum(min_count=1)
    sums = sums.loc[totals["path"]]
    others = [n for n in ("relative_error", "norm_error", "bits_per_weight") if n in layers]
    totals = totals.assign(**{str(name): sums[name].to_numpy() for name in sizes})
    return pd.concat([layers, totals.assign(**dict.fromkeys(others, float("nan")))])
