"""Temporary folders; the next process removes those that a killed process left."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lowrank.files.processes import Owner, this_process

# lowrank-<machine>-<process>-<its start>-<what makes it unique>
NAME = re.compile(r"lowrank-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)-\w+")


@contextmanager
def folder() -> Iterator[Path]:
    """A new temporary folder, removed at the end; first it removes those of killed processes."""
    clean()
    owner = this_process()
    prefix = f"lowrank-{_short(owner.host)}-{owner.pid}-{owner.started}-"
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        yield Path(name)


def clean() -> None:
    """Remove the temporary folders of processes of this machine that are gone."""
    own = this_process()
    for entry in os.scandir(tempfile.gettempdir()):
        found = NAME.fullmatch(entry.name)
        if found is None or found["host"] != _short(own.host):
            continue
        if Owner(own.host, int(found["pid"]), int(found["started"])).is_gone:
            # Another user's folder stays, and another process may be removing it as well.
            shutil.rmtree(entry.path, ignore_errors=True)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
