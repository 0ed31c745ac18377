"""What a record must hold, and what it cannot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SCHEMA = 1

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "": (
        *("schema", "key", "config", "task", "model", "method", "family", "level", "recovery"),
        *("seed", "dense", "compressed", "ratios", "latency", "layers", "skipped", "environment"),
        "timings",
    ),
    "dense": ("params", "bytes"),
    "compressed": ("params", "bytes"),
    "ratios": ("compression_ratio", "param_ratio"),
}


def check_record(record: Any) -> None:
    """Raise ValueError unless it has the fields of a record, and nothing that JSON cannot hold."""
    if not isinstance(record, Mapping):
        raise ValueError(f"a record is a mapping of fields, not {type(record).__name__}")
    for part, names in REQUIRED.items():
        fields = record[part] if part else record
        missing = [f"{part}.{name}" if part else name for name in names if name not in fields]
        if missing:
            raise ValueError(f"the record lacks {', '.join(missing)}")
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema={record['schema']!r} is not the known one, {SCHEMA}")
    check_plain(record, "")


def check_plain(value: Any, path: str) -> None:
    """Raise ValueError, with the path of the field, unless JSON holds `value` as it is."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"{path} is {value}: a failed measurement is a failed run, never a number on record"
        )
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"the field {name!r} in {path or 'the record'} must be a string")
            check_plain(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            check_plain(inner, f"{path}[{index}]")
    elif value is not None and not isinstance(value, str | bool | int | float):
        raise ValueError(
            f"{path} is a {type(value).__name__}, which JSON cannot hold: give a number, a text, "
            "true, false, null, or lists and mappings of them"
        )
