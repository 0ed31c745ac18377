"""The measurements of the rows, and their table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from experiments.benchmarks.exported_runtimes.cases import RuntimeCase, Written
from experiments.benchmarks.exported_runtimes.runtimes import Run
from experiments.benchmarks.exported_runtimes.subject import distance
from lowrank.measure.speedup import paired_speedup
from lowrank.tasks import Task

if TYPE_CHECKING:
    from lowrank.reporting.table import Table

MIB = 2**20


@dataclass
class MeasuredRuntime:
    """The measurements of a row.

    Attributes:
        written: its files.
        run: the model in this runtime.
        outputs: for the example.
        memory: bytes before the model is loaded and at the peak.
        seconds: of a pass, in each round.
    """

    case: RuntimeCase
    written: Written
    run: Run
    outputs: Tensor
    quality: float = float("nan")
    memory: dict[str, int | None] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


def tabulate(measured: Sequence[MeasuredRuntime], task: Task, text: str) -> Table:
    """One row for each runtime and its files."""
    import pandas as pd

    from lowrank.reporting.table import Table, no_bold

    metric = task.judged_by()[0].name
    same: dict[bool, Tensor] = {}
    values, cells = [], []
    for found in measured:
        reference = same.setdefault(found.case.compressed, found.outputs)
        number = numbers(found, measured[0], metric) | {
            "difference": distance(found.outputs, reference)
        }
        values.append(number)
        cells.append(texts(found, number, metric))
    shown = pd.DataFrame(cells)
    return Table(pd.DataFrame(values), shown, no_bold(shown), text, labels=2)


def numbers(found: MeasuredRuntime, first: MeasuredRuntime, metric: str) -> dict[str, Any]:
    """The columns of a row for CSV; None where there is nothing."""
    before, peak = found.memory["before"], found.memory["peak"]
    speedup = paired_speedup(first.seconds, found.seconds)
    low, middle, high = quartiles(found.seconds)
    return {
        "runtime": found.case.runtime.name,
        "model": found.case.stored,
        "layers": found.written.layers,
        "layers_kept": found.written.kept,
        "bytes": found.written.nbytes,
        "bytes_ratio": first.written.nbytes / found.written.nbytes,
        metric: found.quality,
        "peak_bytes": peak,
        "model_bytes": None if peak is None or before is None else peak - before,
        "seconds": middle,
        "seconds_low": low,
        "seconds_high": high,
        "speedup": speedup.median,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
    }


def quartiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """The quartiles of times, of which there may be only one."""
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, middle, high


def texts(found: MeasuredRuntime, number: dict[str, Any], metric: str) -> dict[str, str]:
    """The columns of a row for people."""
    kept, layers = number["layers_kept"], number["layers"]
    growth, peak = number["model_bytes"], number["peak_bytes"]
    times = [1000 * number[name] for name in ("seconds", "seconds_low", "seconds_high")]
    bounds = [number[name] for name in ("speedup", "speedup_low", "speedup_high")]
    return {
        "runtime": number["runtime"],
        "model": number["model"],
        "kept": f"{kept} of {layers}" if layers else "–",
        "disk MiB": f"{number['bytes'] / MIB:.2f}",
        "smaller": f"{number['bytes_ratio']:.2f}",
        metric: f"{found.quality:.4f}",
        "difference": f"{number['difference']:.1e}",
        "memory MiB": "–" if peak is None else f"{peak / MIB:.0f}",
        "above imports": "–" if growth is None else f"{growth / MIB:.0f}",
        "ms": "{:.3g} ({:.3g} … {:.3g})".format(*times),
        "speedup": "{:.2f} ({:.2f} … {:.2f})".format(*bounds),
    }
