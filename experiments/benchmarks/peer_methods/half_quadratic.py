"""HQQ by its authors' library."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.benchmarks.peer_methods.method import (
    SCALE_BITS,
    Kept,
    Method,
    Outcome,
    Subject,
    not_installed,
    quantized_bits,
    tensor_bits,
)
from lowrank.files.extras import need


@dataclass(frozen=True)
class HalfQuadratic(Method):
    """Half-quadratic quantization with its defaults: zero points that are no integers, 16 bits.

    Args:
        bits: of a code; the library packs 3 bits as ten codes in 32.
        group_size: consecutive weights that share a scale and a zero point; the library's groups
            go on from one row to the next where it does not divide a layer's inputs.
    """

    bits: int
    group_size: int

    @property
    def name(self) -> str:
        return "HQQ"

    def missing(self) -> str:
        return not_installed("hqq")

    def compress(self, subject: Subject) -> Outcome:
        need(self.name, "hqq")
        return Outcome({name: self._layer(weight) for name, weight in subject.weights().items()})

    def _layer(self, weight: Tensor) -> Kept:
        from hqq.core.quantize import (  # pyright: ignore[reportMissingImports]
            BaseQuantizeConfig,
            HQQLinear,
        )

        layer = HQQLinear.from_weights(
            weight.clone(),
            bias=None,
            quant_config=BaseQuantizeConfig(nbits=self.bits, group_size=self.group_size, axis=1),
            compute_dtype=torch.float16,
            device="cpu",
        )
        scale, zero = layer.meta["scale"], layer.meta["zero"]
        return Kept(
            weight=layer.dequantize().float(),
            bits=quantized_bits(weight.numel(), self.bits, scale.numel(), SCALE_BITS),
            held_bits=tensor_bits(layer.W_q, scale, zero),
        )
