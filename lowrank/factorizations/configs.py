"""What the config of a factorization says of shapes and dtypes."""

from __future__ import annotations

import torch

from lowrank.fields import LARGEST, Fields

FLOATING = {
    name: dtype
    for name, dtype in vars(torch).items()
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point and str(dtype) == f"torch.{name}"
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
