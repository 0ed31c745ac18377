"""Round to nearest by torchao, with its own weight-only configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.peer_methods.method import (
    Kept,
    Method,
    Outcome,
    Subject,
    divisor_near,
    not_installed,
    quantized_bits,
    tensor_bits,
)
from lowrank.files.extras import need


@dataclass(frozen=True)
class TorchaoRounding(Method):
    """`Int8WeightOnlyConfig` a row, or `IntxWeightOnlyConfig` with zero points for groups.

    torchao's packed int4 tensors do not run on a CPU; this configuration computes the same codes
    and holds each in a byte.

    Args:
        bits: 8 with `group_size` None; 2 to 7 with groups.
        group_size: consecutive inputs that share a scale, or the divisor of a layer's inputs
            nearest to it; None: a row.
    """

    bits: int
    group_size: int | None

    @property
    def name(self) -> str:
        return "torchao"

    def missing(self) -> str:
        return not_installed("torchao")

    def compress(self, subject: Subject) -> Outcome:
        need(self.name, "torchao")
        return Outcome({name: self._layer(weight) for name, weight in subject.weights().items()})

    def _layer(self, weight: Tensor) -> Kept:
        from torchao.quantization import quantize_  # pyright: ignore[reportMissingImports]

        rows, columns = weight.shape
        layer = nn.Linear(columns, rows, bias=False)
        # Its int8 scales have the weight's dtype, and 16 bits are what is counted.
        layer.weight.data = weight.clone() if self.group_size else weight.half()
        quantize_(layer, self._config(columns))
        held: Any = layer.weight
        zeros = () if self.group_size is None else (held.zero_point,)
        return Kept(
            weight=held.dequantize().detach().float(),
            bits=quantized_bits(
                weight.numel(), self.bits, held.scale.numel(), self.bits if zeros else 0
            ),
            held_bits=tensor_bits(held.qdata, held.scale, *zeros),
        )

    def _config(self, columns: int) -> object:
        from torchao import quantization  # pyright: ignore[reportMissingImports]

        if self.group_size is None:
            return quantization.Int8WeightOnlyConfig()
        return quantization.IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, f"int{self.bits}"),
            granularity=quantization.PerGroup(divisor_near(columns, self.group_size)),
            mapping_type=quantization.MappingType.ASYMMETRIC,
            scale_dtype=torch.float16,
        )
