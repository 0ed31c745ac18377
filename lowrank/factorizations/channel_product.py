"""A factor that mixes channels and leaves the positions of a kernel alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from lowrank.factorizations.factorization import (
    MULTIPLY,
    Dense,
    Factorization,
    check_forms,
    rebuild,
)
from lowrank.factorizations.operations import Operation
from lowrank.files.fields import Fields
from lowrank.numerics.checks import check_integer


class ChannelProduct(Factorization):
    """W = core (mixing ⊗ 1), the columns of W and core being (channel, position).

    A k × k convolution of `in` channels (view ``channel``, k² positions) runs as a 1 × 1
    convolution to the channels of the core and a k × k one on them: what Tucker-2 and CP make of a
    kernel. A look-up in a table, and a kernel of another number of positions or view, multiply it
    out at every call.

    Args:
        core: shape (out, channels · positions).
        mixing: shape (channels, in).
        positions: of the kernel, kh · kw; at least 1.

    Raises:
        ValueError: shapes that do not fit, or something that is no factorization.
    """

    def __init__(
        self,
        core: Factorization,
        mixing: Factorization,
        positions: int,
        notes: tuple[str, ...] = (),
    ) -> None:
        check_forms("the core or the mixing", [core, mixing])
        check_integer("positions", positions, least=1)
        if core.shape[1] != mixing.shape[0] * positions:
            raise ValueError(
                f"a core of shape {core.shape} has no {positions} columns for each of the "
                f"{mixing.shape[0]} channels that it is given"
            )
        super().__init__((core.shape[0], mixing.shape[1] * positions), notes)
        self.core, self.mixing, self.positions = core, mixing, int(positions)

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        steps = operation.by_channel(self.positions)
        if steps is None:
            return operation.apply(x, self.to_dense(), bias)
        mix, convolve = steps
        return self.core(self.mixing(x, mix), convolve, bias)

    def to_dense(self) -> Tensor:
        core = self.core.to_dense().unflatten(1, (-1, self.positions))
        return torch.einsum("orp,ri->oip", core, self.mixing.to_dense()).flatten(1)

    def multiplied_out(self, operation: Operation) -> bool:
        steps = operation.by_channel(self.positions)
        if steps is None:
            return True
        mix, convolve = steps
        return self.mixing.multiplied_out(mix) or self.core.multiplied_out(convolve)

    @property
    def params(self) -> int:
        return self.core.params + self.mixing.params

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        core, mixing = self.core.map_dense(function), self.mixing.map_dense(function)
        return ChannelProduct(core, mixing, self.positions, notes=self.notes)

    def config(self) -> dict[str, Any]:
        return {
            "type": "ChannelProduct",
            "positions": self.positions,
            "core": self.core.config(),
            "mixing": self.mixing.config(),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        core, mixing = rebuild(config.fields("core")), rebuild(config.fields("mixing"))
        return cls(core, mixing, config.integer("positions", 1))

    def describe(self) -> str:
        channels, inner = self.mixing.shape
        core = "" if isinstance(self.core, Dense) else f", core {self.core.describe()}"
        positions = f"{self.positions} positions"
        return f"Channels {inner}→{channels}→{self.shape[0]}, {positions}{core}"
