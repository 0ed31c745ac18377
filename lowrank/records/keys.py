"""The key of a measured point: a hash of its config without settings of where and how it runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lowrank.records.checks import check_plain

# Parts of a config that say where and how a point is run, and not which point it is.
VOLATILE = frozenset(
    {"force", "hydra", "kernel_cache", "results", "save", "shard", "sweep", "tracker"}
)
# Settings by which repetitions of one measurement differ.
SEED_FIELDS = ("seed", "calibration_seed")


def key(config: Mapping[str, Any]) -> str:
    """The name of the point that a resolved config describes: 16 hexadecimal digits.

    The order of the fields and whether a whole number is written 2 or 2.0 change nothing, and nor
    do the top-level fields that only say where and how it is run (`VOLATILE`).

    Raises:
        ValueError: a value that JSON cannot hold, named by its path.
    """
    stable = {name: value for name, value in config.items() if name not in VOLATILE}
    check_plain(stable, "config")
    return hashlib.sha256(canonical_text(stable).encode()).hexdigest()[:16]


def canonical_text(value: Any) -> str:
    """A part of a config as JSON, the same whatever the order of its fields."""
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))


def point(config: Mapping[str, Any]) -> str:
    """The key of a config without its seeds: the same for all repetitions of one measurement."""
    return key(_without_seeds(config))


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _canonical(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_canonical(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _without_seeds(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {
            name: _without_seeds(value) for name, value in config.items() if name not in SEED_FIELDS
        }
    if isinstance(config, list | tuple):
        return [_without_seeds(value) for value in config]
    return config
