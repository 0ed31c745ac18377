"""The block formats of GGUF: 32 consecutive weights of a row share a scale, and perhaps a minimum.

Source: the structures ``block_q4_0`` … ``block_q8_0`` of ggml (ggml-common.h), and `gguf.quants`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowrank.factorizations import Quantized
from lowrank.factorizations.packing import Layout, unpack
from lowrank.factorizations.quantized import symmetric_zero

BLOCK = 32


@dataclass(frozen=True)
class BlockType:
    """GgufBlocks of weights d · (code − offset), or d · code + m, with d and m in float16.

    Attributes:
        name: in GGUF.
        bits: of a code.
        has_minimum: whether there is an m, and no offset.
    """

    name: str
    bits: int
    has_minimum: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of a block."""
        return (4 if self.has_minimum else 2) + BLOCK * self.bits // 8

    @property
    def offset(self) -> int:
        """The code of 0, where there is no minimum."""
        return 0 if self.has_minimum else 2 ** (self.bits - 1)


# The smallest first.
BLOCK_TYPES = (
    BlockType("Q4_0", 4),
    BlockType("Q4_1", 4, has_minimum=True),
    BlockType("Q5_0", 5),
    BlockType("Q5_1", 5, has_minimum=True),
    BlockType("Q8_0", 8),
)


@dataclass(frozen=True)
class GgufBlocks:
    """A matrix in blocks.

    Attributes:
        codes: shape (out, in), in 0..2^bits − 1.
        numbers: d, and m if there is one, shape (1 or 2, out, in / 32), float16.
    """

    type: BlockType
    codes: Tensor
    numbers: Tensor

    def to_bytes(self) -> np.ndarray:
        """The bytes of its rows, shape (out, in / 32 · bytes of a block)."""
        rows, columns = self.codes.shape
        codes = self.codes.cpu().numpy().astype(np.uint8).reshape(-1, BLOCK)
        numbers = self.numbers.cpu().numpy().view(np.uint8).reshape(len(self.numbers), -1, 2)
        parts = [*numbers, *_packed(codes, self.type.bits)]
        return np.concatenate(parts, axis=1).reshape(rows, columns // BLOCK * self.type.nbytes)


def _packed(codes: np.ndarray, bits: int) -> list[np.ndarray]:
    """The bytes of codes (blocks, 32) behind the numbers of their blocks."""
    if bits == 8:
        return [codes ^ 0x80]  # The integer code − 128, in two's complement.
    low = codes & 0x0F
    # A byte holds code i, and code i + 16 in its upper half.
    halves = low[:, : BLOCK // 2] | low[:, BLOCK // 2 :] << 4
    fifth = [np.packbits(codes >> 4, axis=1, bitorder="little")] if bits == 5 else []
    return [*fifth, halves]


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
