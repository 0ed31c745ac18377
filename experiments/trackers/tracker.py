"""The interface of trackers, and the tracker that shows nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
# What tells the points of a sweep apart.
LABELS = ("task", "model", "method", "family", "level", "norm", "recovery", "seed")


class Tracker(ABC):
    """Where records are shown besides their files."""

    @abstractmethod
    def log_point(self, record: Record, sweep: str) -> None:
        """Show one record as a run of the group `sweep`."""

    @abstractmethod
    def log_sweep(self, folder: str, sweep: str) -> None:
        """Show tables, curves and figures of all records in `folder`, in a run of their own."""


@dataclass(frozen=True)
class NoTracker(Tracker):
    """Shows nothing."""

    def log_point(self, record: Record, sweep: str) -> None:
        pass

    def log_sweep(self, folder: str, sweep: str) -> None:
        pass


def name_of(record: Record) -> str:
    """The name of the run of a point: what tells it from the others of a sweep."""
    parts = [record["method"], "" if record["level"] is None else f"{record['level']:g}"]
    parts += [f"{record['norm']} norm" if record["norm"] != "identity" else ""]
    parts += [f"+ {record['recovery']}" if record["recovery"] != "none" else ""]
    return " ".join(filter(None, [*parts, f"seed {record['seed']}"]))


def labels_of(record: Record) -> dict[str, str | int | float | bool]:
    """What tells the point of a record from others, by name; "none" for what it has not."""
    return {name: "none" if record[name] is None else record[name] for name in LABELS}


def numbers_of(record: Record) -> dict[str, float]:
    """The measures of a record by name: ``compressed/top1``, ``latency/batch_1/speedup``, …"""
    names = ("compressed", "dense", "ratios", "validation", "timings")
    groups = {name: record.get(name) or {} for name in names}
    groups |= {f"latency/batch_{one['batch_size']}": one for one in record["latency"]}
    return {
        f"{group}/{name}": value
        for group, values in groups.items()
        for name, value in values.items()
        if isinstance(value, int | float)
    }
