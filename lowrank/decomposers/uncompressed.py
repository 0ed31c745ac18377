"""Uncompressed weights, counted among the compressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Dense, Factorization
from lowrank.norms import Norm


@dataclass(frozen=True)
class Uncompressed(Decomposer):
    """Ŵ = W.

    What an allocation gives a layer that is worth all its bytes. The layer counts among the
    compressed ones, in ratios and bits per weight too, unlike one that was not selected.
    """

    family: ClassVar[str] = "dense"
    norms: ClassVar = (Norm,)

    @property
    def level(self) -> float:
        """Its compression ratio."""
        return 1

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        return Dense(weight.clone(), notes=("kept dense",))
