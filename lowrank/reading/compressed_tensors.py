"""Layers as compressed-tensors stores them, which llm-compressor writes and vLLM serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lowrank.factorizations import Factorization
from lowrank.factorizations.packing import Layout
from lowrank.files.fields import Fields
from lowrank.reading.scheme import REALS, Scheme, grouped, layout_of, per_row, words
from lowrank.reading.stored import LayerTensors

FORMATS = ("pack-quantized", "int-quantized")
MIXED = "mixed-precision"


@dataclass(frozen=True)
class CompressedTensors(Scheme):
    """W = (code − zero) · scale, of integers of up to 8 bits, one scale for each group of columns,
    for each row or for all.

    The formats ``pack-quantized`` (codes in ``weight_packed``) and ``int-quantized`` (a byte each).
    Which of the bits and group sizes of its config a layer has is told by the shapes of its
    tensors.

    Source: ``compressors/pack_quantized`` and ``quantization/lifecycle/forward.py`` of
    compressed-tensors.
    """

    method: ClassVar[str] = "compressed-tensors"

    bits: tuple[int, ...]
    group_sizes: tuple[int, ...]

    @classmethod
    def of(cls, config: Fields) -> Self:
        config.one_of("format", (*FORMATS, MIXED))
        for name in ("kv_cache_scheme", "sparsity_config", "transform_config"):
            if config.get(name):
                config.refuse(name, config[name], "empty")
        bits, sizes = set(), set()
        groups = config.fields("config_groups")
        for group in (groups.fields(name) for name in groups):
            if group.get("format") is not None:
                group.one_of("format", FORMATS)
            for name in ("input_activations", "output_activations"):
                if group.get(name) is not None:
                    group.refuse(name, group[name], "null: activations are not quantized here")
            weights = group.fields("weights")
            weights.one_of("type", ("int",))
            weights.one_of("strategy", ("tensor", "channel", "group"))
            bits.add(weights.integer("num_bits", 1, 8))
            if weights.get("group_size") is not None:
                sizes.add(weights.integer("group_size", -1))
        return cls(tuple(sorted(bits)), tuple(sorted(sizes)))

    def read(
        self, parts: LayerTensors, shape: tuple[int, int], dtype: torch.dtype
    ) -> Factorization:
        rows, columns = shape
        is_packed = "weight_packed" in parts
        bits = self._bits(parts, columns) if is_packed else 8
        layout = self._layout(parts, shape, bits)
        scale = self._numbers(parts, "weight_scale", layout, *REALS)
        if is_packed:
            parts["weight_shape"].read((2,), torch.int64, torch.int32)
            codes = words(parts["weight_packed"], rows, columns, bits)
        else:
            codes = parts["weight"].read(shape, torch.int8).to(torch.int16) + 128
        zero = self._zero(parts, layout, is_packed)
        groups = None
        if "weight_g_idx" in parts:
            groups = parts["weight_g_idx"].read((columns,), torch.int32)
        if layout.group_size == "tensor":
            scale = scale.view(1, 1)
        return grouped(codes, scale, zero, layout, dtype, groups)

    def _bits(self, parts: LayerTensors, columns: int) -> int:
        packed = parts["weight_packed"].shape
        fit = [b for b in self.bits if len(packed) == 2 and packed[1] == -(-columns * b // 32)]
        if len(fit) != 1:
            raise ValueError(
                f"'{parts.layer}.weight_packed' is {packed}, and {columns} codes of "
                f"{' or '.join(map(str, self.bits))} bits in a row do not tell of which it is"
            )
        return fit[0]

    def _layout(self, parts: LayerTensors, shape: tuple[int, int], bits: int) -> Layout:
        scale = parts["weight_scale"].shape
        if scale in ((), (1,)) and shape[0] > 1:
            return Layout(shape, bits, "tensor")
        sizes = [size for size in self.group_sizes if size > 0 and shape[1] % size == 0]
        layouts = [layout_of(shape, bits, size) for size in (-1, *sizes)]
        fit = [one for one in layouts if scale == (shape[0], per_row(one))]
        if not fit:
            raise ValueError(
                f"'{parts.layer}.weight_scale' of {scale} fits no groups of {self.group_sizes}, no "
                f"rows and no whole matrix of {shape}"
            )
        return fit[0]

    def _numbers(
        self, parts: LayerTensors, name: str, layout: Layout, *dtypes: torch.dtype
    ) -> Tensor:
        """The tensor of a number for each group, shape (out, groups)."""
        if layout.group_size == "tensor":
            return parts[name].read(parts[name].shape, *dtypes).view(1, 1)
        return parts[name].read((layout.shape[0], per_row(layout)), *dtypes)

    def _zero(self, parts: LayerTensors, layout: Layout, is_packed: bool) -> Tensor | None:
        name, half = "weight_zero_point", 2 ** (layout.bits - 1)
        if name not in parts:
            return None
        stored: Any = parts[name]
        if is_packed and stored.dtype == torch.int32 and layout.group_size != "tensor":
            return words(stored, layout.shape[0], per_row(layout), layout.bits, dim=0)
        found = self._numbers(parts, name, layout, torch.int8, torch.int32, torch.int64)
        return found.to(torch.int16) + half

    def __str__(self) -> str:
        bits = " or ".join(map(str, self.bits))
        return f"compressed-tensors, {bits} bits, groups {list(self.group_sizes) or 'of rows'}"
