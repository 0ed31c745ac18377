"""Look-up tables."""

from __future__ import annotations

from typing import Any

from torch import nn

from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import KernelView, Lookup, Operation
from lowrank.model.factorized import FactorizedEmbedding, FactorizedLayer
from lowrank.model.layers.rule import Rule


class EmbeddingRule(Rule):
    looks_up = True

    def fits(self, module: nn.Module) -> bool:
        # Renormalised rows would have to be written back into the factors.
        return super().fits(module) and getattr(module, "max_norm", None) is None

    def module_type(self) -> type[nn.Module]:
        return nn.Embedding

    def reading(self, module: nn.Module, x: Any, *others: Any) -> Any:
        return self.looks_up, len(self.weight(module)), others

    def operation(self, module: nn.Module, view: KernelView) -> Operation:
        assert isinstance(module, nn.Embedding)
        return Lookup(module.padding_idx)

    def build(
        self, module: nn.Embedding, factorization: Factorization, view: KernelView
    ) -> FactorizedLayer:
        return FactorizedEmbedding(factorization, module.padding_idx)
