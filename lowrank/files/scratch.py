"""Temporary folders; the next process removes those that a killed process left."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lowrank.files.processes import LABEL, is_of_the_gone, this_process

# lowrank-<whose>-<what makes it unique>
NAME = re.compile(rf"lowrank-{LABEL}-\w+")


@contextmanager
def folder() -> Iterator[Path]:
    """A new temporary folder, removed at the end; first it removes those of killed processes."""
    clean()
    with tempfile.TemporaryDirectory(prefix=f"lowrank-{this_process().label}-") as name:
        yield Path(name)


def clean() -> None:
    """Remove the temporary folders of processes of this machine that are gone."""
    for entry in os.scandir(tempfile.gettempdir()):
        found = NAME.fullmatch(entry.name)
        if found is not None and is_of_the_gone(found):
            # Another user's folder stays, and another process may be removing it as well.
            shutil.rmtree(entry.path, ignore_errors=True)
