"""PyTorch's attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import KernelView
from lowrank.model.factorized import FactorizedLayer, FactorizedMultiheadAttention
from lowrank.model.layers.rule import Rule, Unseen


class MultiheadAttentionRule(Rule):
    """The packed q, k, v projection; the output projection is a linear layer of its own."""

    parameter = "in_proj_weight"
    parts = frozenset(
        {
            *("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
            *("in_proj_bias", "bias_k", "bias_v", "out_proj"),
        }
    )

    def module_type(self) -> type[nn.Module]:
        return nn.MultiheadAttention

    def is_called(self, module: nn.Module) -> bool:
        return False

    def inputs(self, module: nn.Module, x: Tensor, *others: Any) -> Tensor:
        if any(other is not x for other in others[:2]):
            raise Unseen(
                "its packed projection multiplies queries, keys and values, which are not one "
                "tensor here, so that its rows do not have one second moment; the identity norm "
                "needs none"
            )
        return x

    def build(
        self, module: nn.MultiheadAttention, factorization: Factorization, view: KernelView
    ) -> FactorizedLayer:
        return FactorizedMultiheadAttention(module, factorization)
