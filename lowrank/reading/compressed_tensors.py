"""Layers as compressed-tensors stores them, which llm-compressor writes and vLLM serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lowrank.factorizations import Factorization
from lowrank.factorizations.packing import Layout
from lowrank.files.fields import Fields
from lowrank.model.contents import names_of
from lowrank.reading.scheme import REALS, Scheme, grouped, layout_of, per_row, words
from lowrank.reading.stored import LayerTensors

FORMATS = ("pack-quantized", "int-quantized")
MIXED = "mixed-precision"
# What `actorder` is where each column says its group.
ORDERED = (True, "group", "dynamic")


@dataclass(frozen=True)
class WeightKind:
    """What a group of a config says of the weights of its layers.

    Attributes:
        size: of the columns that share a scale; −1 for whole rows, None for the whole matrix.
        symmetric: whether all zero points are in the middle, and need not be stored.
        is_ordered: whether the groups of columns are not neighbours: each column says its own.
    """

    bits: int
    size: int | None
    symmetric: bool
    is_ordered: bool

    @classmethod
    def of(cls, weights: Fields) -> Self:
        weights.one_of("type", ("int",))
        strategy = weights.one_of("strategy", ("tensor", "channel", "group"))
        size = {"tensor": None, "channel": -1}.get(strategy)
        if strategy == "group":
            size = weights.integer("group_size", -1)
        symmetric = weights.get("symmetric", True)
        if not isinstance(symmetric, bool):
            weights.refuse("symmetric", symmetric, "true or false")
        is_ordered = weights.get("actorder") in ORDERED
        return cls(weights.integer("num_bits", 1, 8), size, symmetric, is_ordered)

    def layout(self, shape: tuple[int, int], bits: int) -> Layout:
        """The layout of codes of a matrix."""
        if self.size is None:
            return Layout(shape, bits, "tensor")
        return layout_of(shape, bits, self.size)

    def fits(self, parts: LayerTensors, shape: tuple[int, int]) -> bool:
        """Whether the tensors of a layer are such ones."""
        if "weight_packed" in parts:
            words = parts["weight_packed"].shape
            if len(words) != 2 or words[1] != -(-shape[1] * self.bits // 32):
                return False
        scales = ((), (1,)) if self.size is None else ((shape[0], per_row(self.layout(shape, 8))),)
        has_rest = self.symmetric or "weight_zero_point" in parts
        has_order = not self.is_ordered or "weight_g_idx" in parts
        return parts["weight_scale"].shape in scales and has_rest and has_order

    def __str__(self) -> str:
        groups = {None: "one scale", -1: "a scale for each row"}.get(self.size)
        groups = groups or f"a scale for each {self.size} columns"
        zeros = "" if self.symmetric else ", zero points"
        return f"{self.bits} bits, {groups}{zeros}{', weight_g_idx' * self.is_ordered}"


@dataclass(frozen=True)
class CompressedTensors(Scheme):
    """W = (code − zero) · scale, of integers of up to 8 bits, one scale for each group of columns,
    for each row or for all.

    The formats ``pack-quantized`` (codes in ``weight_packed``) and ``int-quantized`` (a byte each).
    Of which of the kinds of its config a layer is, is told by the shapes of its tensors.

    Source: ``compressors/pack_quantized`` and ``quantization/lifecycle/forward.py`` of
    compressed-tensors.
    """

    method: ClassVar[str] = "compressed-tensors"

    kinds: tuple[WeightKind, ...]

    @classmethod
    def of(cls, config: Fields) -> Self:
        config.one_of("format", (*FORMATS, MIXED))
        for name in ("kv_cache_scheme", "sparsity_config", "transform_config"):
            if config.get(name):
                config.refuse(name, config[name], "empty")
        kinds = []
        groups = config.fields("config_groups")
        for group in (groups.fields(name) for name in groups):
            if group.get("format") is not None:
                group.one_of("format", FORMATS)
            for name in ("input_activations", "output_activations"):
                if group.get(name) is not None:
                    group.refuse(name, group[name], "null: activations are not quantized here")
            kinds.append(WeightKind.of(group.fields("weights")))
        return cls(tuple(dict.fromkeys(kinds)))

    def read(
        self, parts: LayerTensors, shape: tuple[int, int], dtype: torch.dtype
    ) -> Factorization:
        rows, columns = shape
        kind = self._kind(parts, shape)
        is_packed = "weight_packed" in parts
        layout = kind.layout(shape, kind.bits if is_packed else 8)
        scale = self._numbers(parts, "weight_scale", layout, *REALS)
        if is_packed:
            told = parts["weight_shape"].read((2,), torch.int64, torch.int32).tolist()
            if told != [rows, columns]:
                raise ValueError(f"'{parts.layer}.weight_shape' is {told}, and the model's {shape}")
            codes = words(parts["weight_packed"], rows, columns, layout.bits)
        else:
            codes = parts["weight"].read(shape, torch.int8).to(torch.int16) + 128
        zero = self._zero(parts, layout, is_packed)
        if kind.symmetric and zero is not None and bool((zero != 2 ** (layout.bits - 1)).any()):
            raise ValueError(
                f"'{parts.layer}.weight_zero_point' has others than those of symmetric levels, as "
                f"the config says its weights are: {kind}"
            )
        groups = None
        if "weight_g_idx" in parts:
            groups = parts["weight_g_idx"].read((columns,), torch.int32)
        return grouped(codes, scale, zero, layout, dtype, groups)

    def _kind(self, parts: LayerTensors, shape: tuple[int, int]) -> WeightKind:
        """The kind of the config of which a layer is."""
        fit = [kind for kind in self.kinds if kind.fits(parts, shape)]
        if len({(kind.bits, kind.layout(shape, 8)) for kind in fit}) != 1:
            found = names_of([f"{name} {part.shape}" for name, part in parts.items()])
            raise ValueError(
                f"'{parts.layer}', {shape[0]} × {shape[1]}, has {found}, which fit "
                f"{'more than one' if fit else 'none'} of what the config says: "
                f"{names_of([*map(str, self.kinds)])}"
            )
        return min(fit, key=lambda kind: kind.symmetric)

    def _numbers(
        self, parts: LayerTensors, name: str, layout: Layout, *dtypes: torch.dtype
    ) -> Tensor:
        """The tensor of a number for each group, shape (out, groups)."""
        if layout.group_size == "tensor":
            return parts[name].read((1,) * len(parts[name].shape), *dtypes).view(1, 1)
        return parts[name].read((layout.shape[0], per_row(layout)), *dtypes)

    def _zero(self, parts: LayerTensors, layout: Layout, is_packed: bool) -> Tensor | None:
        name, half = "weight_zero_point", 2 ** (layout.bits - 1)
        if name not in parts:
            return None
        stored: Any = parts[name]
        if is_packed and stored.dtype == torch.int32 and layout.group_size != "tensor":
            return words(stored, layout.shape[0], per_row(layout), layout.bits, dim=0)
        found = self._numbers(parts, name, layout, torch.int8, torch.int32, torch.int64)
        return found.to(torch.int64) + half

    def __str__(self) -> str:
        return f"compressed-tensors, {names_of([*map(str, self.kinds)])}"
