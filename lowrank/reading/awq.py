"""Layers as AutoAWQ stores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from lowrank.factorizations import Factorization
from lowrank.files.fields import Fields
from lowrank.reading.scheme import Scheme, grouped, layout_of, per_row, words
from lowrank.reading.stored import LayerTensors, StoredTensor

# The column of which each of the eight codes in an integer is, from its lowest bits on.
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Awq(Scheme):
    """W = (code − zero) · scale, of 4 bits, with a scale and zero point for each group of columns.

    Codes and zero points are packed along the output, eight in an integer, in an order that suits
    the kernel. The scales of columns are in the norms before the layers.

    Source: ``WQLinear_GEMM`` of AutoAWQ.
    """

    method: ClassVar[str] = "awq"

    group_size: int

    @classmethod
    def of(cls, config: Fields) -> Self:
        bits = config.integer("bits" if "bits" in config else "w_bit")
        if bits != 4:
            config.refuse("bits", bits, "4")
        if "version" in config and config["version"] not in ("gemm", "GEMM"):
            config.refuse("version", config["version"], "'gemm'")
        return cls(config.integer("group_size" if "group_size" in config else "q_group_size", -1))

    def read(
        self, parts: LayerTensors, shape: tuple[int, int], dtype: torch.dtype
    ) -> Factorization:
        rows, columns = shape
        layout = layout_of(shape, 4, self.group_size)
        count = per_row(layout)
        codes, zero = _codes(parts["qweight"], shape), _codes(parts["qzeros"], (rows, count))
        scale = parts["scales"].read((count, rows), torch.float16, torch.bfloat16).T
        return grouped(codes, scale, zero, layout, dtype)

    def __str__(self) -> str:
        return f"awq, 4 bits, group {self.group_size}"


def _codes(stored: StoredTensor, shape: tuple[int, int]) -> torch.Tensor:
    """Codes (out, in) of a tensor (in, out / 8)."""
    rows, columns = shape
    if rows % len(ORDER):
        raise ValueError(f"'{stored.name}' cannot be of {rows} outputs, which 8 does not divide")
    packed = words(stored, columns, rows, 4).reshape(columns, -1, len(ORDER))
    return packed[:, :, torch.tensor(ORDER).argsort()].reshape(columns, rows).T
