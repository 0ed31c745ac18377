"""The file of a record, as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowrank.files.atomic import read_replaced, replacing
from lowrank.files.fields import parse


def read(path: Path) -> Any:
    """The JSON in a file; NaN is left to the checks, which name its field.

    Raises:
        ValueError: it holds none.
        OSError: it cannot be read.
    """
    text, _ = read_replaced(path)
    return parse(text, "the text", numbers=False)


def record_in(key: str, folder: Path) -> Mapping[str, Any] | None:
    """The record of that name, unchecked; None if there is none, or nothing that could be one."""
    try:
        record = read(folder / f"{key}.json")
    except (OSError, ValueError):
        return None
    return record if isinstance(record, Mapping) and record.get("key") == key else None


def write(record: Mapping[str, Any], path: Path, as_of: os.stat_result | None = None) -> None:
    """Write a record whole or not at all.

    Args:
        as_of: of the file that it takes the place of, whose time it keeps; now if not given.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")
        if as_of is not None:
            os.utime(file, ns=(as_of.st_atime_ns, as_of.st_mtime_ns))
