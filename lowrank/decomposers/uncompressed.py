"""The identity method: a weight that an allocation leaves uncompressed."""

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

    The choice of an allocation for a layer that is worth all its bytes. Unlike a layer that was not
    selected, it counts among the compressed layers, in ratios and bits per weight too.
    """

    family: ClassVar[str] = "dense"
    norms: ClassVar = (Norm,)

    @property
    def level(self) -> float:
        """Its compression ratio."""
        return 1

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        return Dense(weight.clone(), notes=("kept dense",))
