"""Progress messages of a sweep: one line per point, printed by the process that finished it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from lowrank.files import scratch
from lowrank.reporting.captions import NEARLY_ALL, share

# The outcome of a point: measured here; present, by another process; claimed by another process;
# failed; or lost with its worker.
Outcome = Literal["measured", "present", "claimed", "failed", "lost"]


@dataclass(frozen=True)
class Progress:
    """The place of a sweep in its list of points, shared by its worker processes.

    Args:
        total: points of the sweep.
        done: those that had their record when it started.
        ticks: a file to which each finished point adds one byte; its size is the count that all
            processes see.
        since: by folder of records, when the sweep began by the clock of its file system.
        started: in seconds since the epoch.
    """

    total: int
    done: int
    ticks: Path
    since: Mapping[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.time)

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

    def failed(self, point: str, reason: str) -> None:
        """Say which point failed and why."""
        self._say(f"FAILED {point}: {reason}", sys.stderr)

    def _say(self, text: str, stream: TextIO) -> None:
        count = self._count()
        if not count:
            stream.write(f"{text}\n")
            stream.flush()
            return
        remaining = self.total - self.done - count
        minutes, seconds = divmod(round((time.time() - self.started) / count * remaining), 60)
        place = f"[{self.done + count}/{self.total}, {minutes}:{seconds:02d} left]"
        # One write for the whole line, because workers share the terminal.
        stream.write(f"{place} {text}\n")
        stream.flush()

    def _count(self) -> int:
        """Count a point; how many are, or 0 on another machine, which does not see the file."""
        try:
            file = os.open(self.ticks, os.O_WRONLY | os.O_APPEND)
        except OSError:
            return 0
        try:
            os.write(file, b".")
            return os.fstat(file).st_size
        finally:
            os.close(file)


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
def counting(total: int, done: int, since: Mapping[str, float] | None = None) -> Iterator[Progress]:
    """The progress of a sweep that starts now."""
    with scratch.folder() as folder:
        ticks = folder / "ticks"
        ticks.touch()
        yield Progress(total, done, ticks, since or {})
