"""The calls of a sweep to its tracker, whose errors lose no record."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.utils import instantiate

from experiments.trackers.tracker import Record


def log_point(settings: Mapping[str, Any], record: Record) -> None:
    """Show a record, which is already saved, in the tracker that `settings` name."""
    with forgiving():
        instantiate(settings["tracker"]).log_point(record, settings["sweep"])


def log_sweep(settings: Mapping[str, Any]) -> None:
    """Show what all records in the sweep's folder say together."""
    with forgiving():
        tracker = instantiate(settings["tracker"])
        tracker.log_sweep(settings["results"], settings["sweep"])


@contextmanager
def forgiving() -> Iterator[None]:
    """Turn an error into a warning: the records are safe, only their mirror is not complete."""
    try:
        yield
    except Exception as error:
        print(f"warning: the tracker failed, the records are safe: {error}", file=sys.stderr)
