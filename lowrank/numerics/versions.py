"""Writes into tensors."""

from __future__ import annotations

from torch import Tensor


def version(x: Tensor) -> int:
    """How often a tensor was changed in place; one made in inference mode cannot be, outside it."""
    return 0 if x.is_inference() else x._version
