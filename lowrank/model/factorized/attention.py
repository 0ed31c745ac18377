"""Attention whose packed projection is a factorization."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowrank.factorizations import Factorization
from lowrank.model.factorized.layer import FactorizedLayer, read_matrix


class FactorizedMultiheadAttention(nn.MultiheadAttention, FactorizedLayer):
    """Attention whose packed q, k, v projection is a factorization.

    PyTorch's attention reads its weights and never calls its projections, so they are multiplied
    out: it saves bytes and no MACs, and the dropout of an adapter does not act.
    """

    kind = "attention"
    weight_name = "in_proj_weight"

    def __init__(self, layer: nn.MultiheadAttention, factorization: Factorization) -> None:
        nn.Module.__init__(self)
        state = {**layer.__dict__, "_modules": dict(layer._modules)}
        state["_parameters"] = {k: p for k, p in layer._parameters.items() if k != "in_proj_weight"}
        self.__dict__.update(state)
        self.factorization = factorization

    @property
    def settings(self) -> dict[str, Any]:
        names = ("num_heads", "batch_first", "add_zero_attn")
        return super().settings | {name: getattr(self, name) for name in names}

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """The packed projection (3·embed, embed)."""
        return read_matrix(self.factorization)

    def plain(self, weight: nn.Parameter) -> nn.Module:
        layer = nn.MultiheadAttention.__new__(nn.MultiheadAttention)
        layer.__dict__.update(vars(self))
        inner = {name: part for name, part in self._modules.items() if name != "factorization"}
        layer.__dict__["_modules"] = inner
        layer.__dict__["_parameters"] = {"in_proj_weight": weight, **self._parameters}
        return layer
