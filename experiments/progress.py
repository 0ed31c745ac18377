"""Progress messages of a sweep: one line per point, printed by the process that finished it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TextIO

from experiments.place import SweepPlace
from lowrank.reporting.captions import NEARLY_ALL, share

# The outcome of a point: measured here; present, by another process; claimed by another process;
# failed; or lost with its worker.
Outcome = Literal["measured", "present", "claimed", "failed", "lost"]
# Seconds between two looks at what is done elsewhere.
PERIOD = 60.0


@dataclass(frozen=True)
class Progress:
    """Says what became of points, and the place of the sweep."""

    place: SweepPlace

    def finished(self, record: Mapping[str, Any]) -> None:
        """Say that a point was measured."""
        dense, compressed = record["dense"], record["compressed"]
        # A measure that is undefined is not there, of one model or of both.
        names = [metric["name"] for metric in record["metrics"]]
        both = [name for name in names if name in dense and name in compressed][:1]
        said = [f"{name} {compressed[name]:.3f} (dense {dense[name]:.3f})" for name in both]
        method = record["method"]
        if record["level"] is not None:
            method += f" {record['level']:g}"
        if record["norm"] != "identity":
            method += f", {record['norm']} norm"
        if record["recovery"] != "none":
            method += f" + {record['recovery']}"
        self._say(
            f"{record['task']} {record['model']} {method}, seed {record['seed']}  "
            f"{''.join(said) or 'no quality'}  {_size(record)}  "
            f"{record['timings']['total_s']:.1f} s",
            sys.stdout,
        )

    def present(self, point: str) -> None:
        """Say that another process measured the point in the meantime."""
        self._say(f"{point}  was measured by another process", sys.stdout)

    def failed(self, point: str, key: str, reason: str) -> None:
        """Say which point failed and why."""
        self.place.fail(key)
        self._say(f"FAILED {point}: {reason}", sys.stderr)

    def _say(self, text: str, stream: TextIO) -> None:
        # One write for the whole line, because workers share the terminal.
        stream.write(f"{self.place.said()} {text}\n".lstrip())
        stream.flush()


def _size(record: Mapping[str, Any]) -> str:
    """The size of a model as text: ratio, bits per compressed weight, and share compressed."""
    ratios, left = record["ratios"], len(record.get("left", []))
    said = [f"{ratios['compression_ratio']:.2f}x"]
    if ratios.get("layers_bits_per_weight") is not None:
        said.append(f"{ratios['layers_bits_per_weight']:.2f} bits")
    if ratios.get("coverage", 1.0) < NEARLY_ALL:
        said.append(f"{share(ratios['coverage'])} % of weights compressed")
    if left:
        said.append(f"{left} layers left as they are" if left > 1 else "1 layer left as it is")
    return ", ".join(said)


@contextmanager
def watching(place: SweepPlace, period: float = PERIOD) -> Iterator[None]:
    """Inside, say the place now and then if it has changed: jobs of SLURM and other sweeps of the
    same points print their lines elsewhere.
    """
    over, start = threading.Event(), place.count()

    def watch() -> None:
        before = start
        while not over.wait(period):
            now = place.count()
            # Of a full disk the time cannot be known.
            if now is not None and now != before and (said := place.said()):
                print(f"{said} by all who work on these points", flush=True)
            before = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
