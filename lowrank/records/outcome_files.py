"""Names of the files of outcomes, which lie beside the records of their points."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The field of a record that names the file.
FIELD = "outcomes_file"
NAME = re.compile(r"(?P<key>[0-9a-f]{16})\.outcomes\.safetensors")


def file_name(key: str) -> str:
    """The name of the file of a point's outcomes, from its key."""
    return f"{key}.outcomes.safetensors"


def key_of(name: str) -> str | None:
    """The key of the point whose outcomes a file of that name holds; None if it is no such file."""
    own = NAME.fullmatch(name)
    return own and own["key"]


def named(record: Mapping[str, Any] | None) -> str | None:
    """The file that a record names as its outcomes; None if it names none of its own point."""
    name = None if record is None else record.get(FIELD)
    if record is None or not isinstance(name, str):
        return None
    return name if key_of(name) and key_of(name) == record.get("key") else None


def is_kept(record: Mapping[str, Any], folder: Path) -> bool:
    """Whether a record names its outcomes and that file exists."""
    name = named(record)
    return name is not None and (folder / name).is_file()
