"""PyTorch's attention."""

from __future__ import annotations

from torch import nn

from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import KernelView
from lowrank.model.factorized import FactorizedLayer, FactorizedMultiheadAttention
from lowrank.model.layers.rule import Rule


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

    def build(
        self, module: nn.MultiheadAttention, factorization: Factorization, view: KernelView
    ) -> FactorizedLayer:
        return FactorizedMultiheadAttention(module, factorization)
