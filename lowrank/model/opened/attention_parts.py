"""PyTorch's attention with queries, keys and values of different sizes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowrank.model.host import Host
from lowrank.model.opened.opener import Opener, is_of

INNER = {f"{part}_proj_weight": f"{part}_proj" for part in ("q", "k", "v")}


class OpenAttention(Host, nn.MultiheadAttention):
    """Attention that reads its three projections from modules."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """As PyTorch's; in calibration the projections are called as well."""
        if self.calls_weights:
            for inner, x in zip(INNER.values(), (query, key, value), strict=True):
                self.get_submodule(inner)(x)
        return super().forward(query, key, value, *args, **kwargs)


class AttentionOpener(Opener):
    """`nn.MultiheadAttention` with separate projections."""

    def weights(self, module: nn.Module) -> tuple[str, ...]:
        if not is_of(module, nn.MultiheadAttention):
            return ()
        separate = all(isinstance(module._parameters.get(n), nn.Parameter) for n in INNER)
        return tuple(INNER.values()) if separate else ()

    def open(self, module: nn.Module) -> nn.Module:
        return OpenAttention.of(module, nn.MultiheadAttention.__name__, INNER)
