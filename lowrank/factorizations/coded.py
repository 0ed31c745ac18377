"""Leaves that store a code for each entry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lowrank.factorizations.factorization import Dense, Factorization, Leaf


class Coded(Leaf):
    """A leaf that stores a code of some bits for each entry of W, and holds no other factorization.

    Codes and what they are read by keep their bits when a model is moved to another dtype, so W's
    own dtype may have to be kept apart: by `_keep_dtype`.
    """

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
