"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, shared: bool = True) -> Iterator[Path]:
    """A new file beside `path` to write to, which takes its place if the block ends without error.

    It lies in the same folder, because only within one file system is a rename atomic, and is
    flushed to the disk before, so that no crash leaves an empty file under `path`.

    Args:
        shared: whether other processes may write the same path at the same time. If not, the new
            file has always the same name, and what a killed process left of it is overwritten.
    """
    unique = f".{uuid.uuid4().hex}" if shared else ""
    temporary = path.with_name(f".{path.name}{unique}.tmp")
    try:
        # Made here for its permissions, which some writers narrow to the owner's.
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
