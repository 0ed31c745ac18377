"""Parsing of the shapes and dtypes in the config of a factorization."""

from __future__ import annotations

import torch

from lowrank.files.fields import LARGEST, Fields

# The dtypes in which matrices are stored and computed.
FLOATING = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def dtype_in(config: Fields, name: str) -> torch.dtype:
    """The floating dtype that a field names."""
    return FLOATING[config.one_of(name, FLOATING)]


def shape_in(config: Fields) -> tuple[int, int]:
    """The field ``shape``: (out, in)."""
    rows, columns = config.integers("shape", 2)
    if rows * columns > LARGEST:
        config.refuse("shape", config["shape"], f"a matrix of at most {LARGEST} entries")
    return rows, columns
