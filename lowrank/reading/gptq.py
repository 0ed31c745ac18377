"""Layers as AutoGPTQ and GPTQModel store them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from lowrank.factorizations import Factorization
from lowrank.files.fields import Fields
from lowrank.reading.scheme import Scheme, grouped, layout_of, per_row, words
from lowrank.reading.stored import LayerTensors

BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Gptq(Scheme):
    """W = (code − zero) · scale with a scale and zero point for each group of columns.

    Codes are packed along the input, zero points along the output; ``g_idx`` has the group of each
    column. The first version of the format, the default, stores each zero point less one.

    Source: ``qlinear_cuda.py`` of AutoGPTQ, and ``gptq_v2`` of GPTQModel.
    """

    method: ClassVar[str] = "gptq"

    bits: int
    group_size: int
    less_one: bool
    is_ordered: bool

    @classmethod
    def of(cls, config: Fields) -> Self:
        bits = config.integer("bits")
        if bits not in BITS:
            config.refuse("bits", bits, f"one of {BITS}")
        size = config.integer("group_size", least=-1)
        known = ("gptq", "gptq_v2")
        form = (
            config.one_of("checkpoint_format", known) if "checkpoint_format" in config else known[0]
        )
        is_ordered = config.get("desc_act", False)
        if not isinstance(is_ordered, bool):
            config.refuse("desc_act", is_ordered, "true or false")
        return cls(bits, size, form == "gptq", is_ordered)

    def read(
        self, parts: LayerTensors, shape: tuple[int, int], dtype: torch.dtype
    ) -> Factorization:
        rows, columns = shape
        layout = layout_of(shape, self.bits, self.group_size)
        count = per_row(layout)
        codes = words(parts["qweight"], columns, rows, self.bits, dim=0).T
        scale = parts["scales"].read((count, rows), torch.float16, torch.bfloat16, torch.float32).T
        zero = words(parts["qzeros"], count, rows, self.bits).T.to(torch.int16) + self.less_one
        if bool((zero >= 2**self.bits).any()):
            raise ValueError(
                f"'{parts.layer}' has zero points of {2**self.bits}, which some tools read as 0"
            )
        groups = None
        if "g_idx" in parts or (self.is_ordered and count > 1):
            groups = parts["g_idx"].read((columns,), torch.int32)
        return grouped(codes, scale, zero, layout, dtype, groups)

    def __str__(self) -> str:
        return f"gptq, {self.bits} bits, group {self.group_size}"
