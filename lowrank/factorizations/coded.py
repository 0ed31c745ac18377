"""Leaves that store a code for each entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor

from lowrank.factorizations.factorization import Dense, Factorization, Leaf


class Coded(Leaf):
    """A leaf that stores a code of some bits for each entry of W, and holds no other factorization.

    Codes and what they are read by keep their bits when a model is moved to another dtype, so W's
    own dtype may have to be kept apart: by `_keep_dtype`.

    Attributes:
        as_stored: the names of its real buffers that keep their dtype.
    """

    as_stored: ClassVar[tuple[str, ...]] = ()

    _as_dtype: Tensor

    def _keep_dtype(self, dtype: torch.dtype, device: torch.device) -> None:
        """Let W have a dtype that follows `to(dtype)` as that of a weight would."""
        # Holds no numbers.
        marker = torch.empty(0, dtype=dtype, device=device)
        self.register_buffer("_as_dtype", marker, persistent=False)

    @property
    def params(self) -> int:
        return self.shape[0] * self.shape[1]

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Seen as bytes, scales and zero points follow to a device and keep their numbers: rounded
        # to another dtype, they would no longer be those that the codes were made for.
        found = {name: getattr(self, name) for name in self.as_stored}
        stored = {name: one.dtype for name, one in found.items() if isinstance(one, Tensor)}
        for name in stored:
            setattr(self, name, getattr(self, name).view(torch.uint8))
        try:
            return super()._apply(fn, recurse)
        finally:
            for name, dtype in stored.items():
                setattr(self, name, getattr(self, name).view(dtype))
