"""Quantized matrices in the block formats of GGUF."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.factorizations import Quantized, ScaledLevels
from lowrank.factorizations.packing import Layout, unpack
from lowrank.factorizations.quantized import symmetric_zero
from lowrank.reading.gguf_blocks import BLOCK, BLOCK_TYPES, BlockType, GgufBlocks


def in_blocks(form: Quantized) -> GgufBlocks | str:
    """The same matrix in the smallest blocks that hold it exactly, or why there are none."""
    columns, size = form.shape[1], form.layout.group_size
    if columns % BLOCK:
        return f"its blocks of {BLOCK} do not divide rows of {columns}"
    if isinstance(size, int) and size < columns and size % BLOCK:
        return f"its blocks of {BLOCK} do not lie within groups of {size}"
    levels = _Levels.of(form)
    if not _is_half(levels.scale):
        return "a scale is no number of its float16"
    for kind in BLOCK_TYPES:
        codes = levels.with_minimum(kind) if kind.has_minimum else levels.with_offset(kind)
        if codes is not None:
            return codes
    return "its blocks do not reach so far, or hold no such zero points"


def with_own_minimum(form: ScaledLevels) -> GgufBlocks | str:
    """The same matrix in the smallest blocks with a minimum, or why there are none."""
    low, scale, layout = form.minimum, form.scale, form.layout
    if form.levels is not None or isinstance(scale, ScaledLevels) or low is None:
        return "its blocks have whole numbers for levels, scales without a code and a minimum"
    if layout.group_size != BLOCK or form.shape[1] % BLOCK or len(low) != layout.count:
        return f"its groups are no blocks of {BLOCK}"
    if not (_is_half(scale) and _is_half(low)):
        return "a scale or minimum is no number of its float16"
    kind = next((k for k in BLOCK_TYPES if k.has_minimum and k.bits >= layout.bits), None)
    if kind is None:
        return f"its blocks with a minimum have no codes of {layout.bits} bits"
    codes = unpack(form.codes, layout.bits, form.shape[0] * form.shape[1]).view(form.shape)
    numbers = torch.stack([scale, low]).to(torch.float16).view(2, form.shape[0], -1)
    return GgufBlocks(kind, codes, numbers)


@dataclass(frozen=True)
class _Levels:
    """W = (code − zero) · scale, with a zero point for each group, shape (groups,)."""

    layout: Layout
    codes: Tensor
    zero: Tensor
    scale: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, form: Quantized) -> _Levels:
        bits, count = form.layout.bits, form.layout.count
        if form.zero is None:
            zero = torch.full((count,), symmetric_zero(bits), device=form.scale.device)
        else:
            zero = form.zero if form.zero.is_floating_point() else unpack(form.zero, bits, count)
        codes = unpack(form.codes, bits, form.shape[0] * form.shape[1]).view(form.shape)
        codes, scale = codes.to(torch.int16), form.scale.double()
        if form.zero is None and bits == 1:  # The levels ±scale/2 are −1 and 1 times that.
            codes, zero, scale = 2 * codes - 1, torch.zeros_like(zero), scale / 2
        return cls(form.layout, codes, zero.double(), scale, form.dtype)

    def with_offset(self, kind: BlockType) -> GgufBlocks | None:
        """Codes of the offset of a type, if zero points are whole and no level is beyond."""
        if not torch.equal(self.zero, self.zero.round()):
            return None
        zero = self._of_blocks(self.zero).to(torch.int16).repeat_interleave(BLOCK, dim=1)
        codes = self.codes - zero + kind.offset
        if bool(((codes < 0) | (codes >= 2**kind.bits)).any()):
            return None
        return GgufBlocks(kind, codes, self._numbers(self.scale))

    def with_minimum(self, kind: BlockType) -> GgufBlocks | None:
        """The codes themselves, if the minimum has 16 bits and each level is the same number."""
        minimum = -self.zero * self.scale
        if self.layout.bits > kind.bits or bool(self.codes.min() < 0) or not _is_half(minimum):
            return None
        # As this library computes levels, and as readers of GGUF do.
        working = torch.promote_types(self.dtype, torch.float32)
        steps = torch.arange(2**self.layout.bits, device=self.scale.device)
        scale, zero = self.scale[:, None].to(working), self.zero[:, None].to(working)
        own = ((steps.to(working) - zero) * scale).to(self.dtype)
        theirs = steps.float() * self.scale[:, None].float() + minimum[:, None].float()
        if not torch.equal(own, theirs.to(self.dtype)):
            return None
        return GgufBlocks(kind, self.codes, self._numbers(self.scale, minimum))

    def _numbers(self, *values: Tensor) -> Tensor:
        return torch.stack([self._of_blocks(value).to(torch.float16) for value in values])

    def _of_blocks(self, values: Tensor) -> Tensor:
        """Of each block (out, in / 32) the value (groups,) of its group."""
        rows, columns = self.layout.shape
        starts = torch.arange(0, columns, BLOCK, device=values.device)
        lines = 1 if self.layout.group_size == "tensor" else rows
        group = starts // self.layout.width if lines == rows else torch.zeros_like(starts)
        return values.view(lines, -1)[:, group].expand(rows, -1)


def _is_half(values: Tensor) -> bool:
    return torch.equal(values.to(torch.float16).double(), values.double())
