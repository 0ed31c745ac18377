"""Bilinear layers."""

from __future__ import annotations

from torch import Tensor, nn

from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import KernelView
from lowrank.model.factorized import FactorizedBilinear, FactorizedLayer
from lowrank.model.factorized.bilinear import products
from lowrank.model.layers.rule import Rule


class BilinearRule(Rule):
    """y = x₁ᵀ W x₂, its weight as a matrix (out, in₁ · in₂) of the products of two inputs."""

    def module_type(self) -> type[nn.Module]:
        return nn.Bilinear

    def as_matrix(self, module: nn.Module, values: Tensor, view: KernelView) -> Tensor:
        return values.flatten(1)

    def as_weight(self, module: nn.Module, matrix: Tensor, view: KernelView) -> Tensor:
        return matrix.reshape(self.weight(module).shape)

    def inputs(self, module: nn.Module, x: Tensor, other: Tensor) -> Tensor:
        return products(x, other)

    def build(
        self, module: nn.Bilinear, factorization: Factorization, view: KernelView
    ) -> FactorizedLayer:
        return FactorizedBilinear(module, factorization)
