"""The block formats of GGUF: 32 consecutive weights of a row share a scale, and perhaps a minimum.

Source: the structures ``block_q4_0`` … ``block_q8_0`` of ggml (ggml-common.h), and `gguf.quants`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK = 32


@dataclass(frozen=True)
class BlockType:
    """Blocks of weights d · (code − offset), or d · code + m, with d and m in float16.

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

    @classmethod
    def from_bytes(cls, kind: BlockType, rows: Tensor) -> GgufBlocks:
        """The blocks in the bytes of rows, shape (out, in / 32 · bytes of a block), uint8."""
        blocks = rows.numpy().reshape(-1, kind.nbytes)
        count = 1 + kind.has_minimum
        numbers = np.ascontiguousarray(blocks[:, : 2 * count]).view(np.float16).T
        codes = _unpacked(blocks[:, 2 * count :], kind.bits)
        return cls(
            kind,
            torch.from_numpy(codes).view(len(rows), -1),
            torch.from_numpy(np.ascontiguousarray(numbers)).view(count, len(rows), -1),
        )


def _packed(codes: np.ndarray, bits: int) -> list[np.ndarray]:
    """The bytes of codes (blocks, 32) behind the numbers of their blocks."""
    if bits == 8:
        return [codes ^ 0x80]  # The integer code − 128, in two's complement.
    low = codes & 0x0F
    # A byte holds code i, and code i + 16 in its upper half.
    halves = low[:, : BLOCK // 2] | low[:, BLOCK // 2 :] << 4
    fifth = [np.packbits(codes >> 4, axis=1, bitorder="little")] if bits == 5 else []
    return [*fifth, halves]


def _unpacked(stored: np.ndarray, bits: int) -> np.ndarray:
    """The codes (blocks, 32) of these bytes: the inverse of `_packed`."""
    if bits == 8:
        return stored ^ 0x80
    halves = stored[:, -BLOCK // 2 :]
    codes = np.concatenate([halves & 0x0F, halves >> 4], axis=1)
    if bits == 5:
        codes |= np.unpackbits(stored[:, : BLOCK // 8], axis=1, bitorder="little") << 4
    return codes
