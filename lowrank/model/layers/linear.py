"""Linear layers, PyTorch's and that of `transformers`."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import KernelView
from lowrank.model.factorized import FactorizedConv1D, FactorizedLayer, FactorizedLinear
from lowrank.model.layers.rule import Rule


class LinearRule(Rule):
    def module_type(self) -> type[nn.Module]:
        return nn.Linear

    def is_called(self, module: nn.Module) -> bool:
        # The output projection of `nn.MultiheadAttention`.
        return not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)

    def build(
        self, module: nn.Linear, factorization: Factorization, view: KernelView
    ) -> FactorizedLayer:
        return FactorizedLinear(factorization, module.bias)


class TransformersConv1DRule(Rule):
    """GPT-2's linear layer, whose weight is stored as (in, out)."""

    def module_type(self) -> type[nn.Module] | None:
        # A model that uses it has loaded its library; importing it here would cost seconds.
        library = sys.modules.get("transformers.pytorch_utils")
        return None if library is None else library.Conv1D

    def as_matrix(self, module: nn.Module, values: Tensor, view: KernelView) -> Tensor:
        return values.T

    def as_weight(self, module: nn.Module, matrix: Tensor, view: KernelView) -> Tensor:
        return matrix.T

    def build(self, module: Any, factorization: Factorization, view: KernelView) -> FactorizedLayer:
        return FactorizedConv1D(factorization, module.bias)
