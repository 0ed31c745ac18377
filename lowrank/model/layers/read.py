"""Weights that the code of the module around them reads."""

from __future__ import annotations

from torch import nn

from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import KernelView
from lowrank.model.factorized import FactorizedLayer, FactorizedRead
from lowrank.model.host import ReadWeight
from lowrank.model.layers.rule import Rule


class ReadWeightRule(Rule):
    """A weight of a `Host`, which calls it in calibration only."""

    def module_type(self) -> type[nn.Module]:
        return ReadWeight

    def kind(self, module: nn.Module) -> str:
        assert isinstance(module, ReadWeight)
        return module.host

    def is_called(self, module: nn.Module) -> bool:
        return False

    def build(
        self, module: nn.Module, factorization: Factorization, view: KernelView
    ) -> FactorizedLayer:
        return FactorizedRead(factorization)
