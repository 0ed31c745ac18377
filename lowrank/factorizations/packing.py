"""Packing of codes of 1 to 8 bits without gaps, and groups of codes that share a scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.factorizations.checks import check_range
from lowrank.numerics.checks import pair_of

BITS = range(1, 9)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Write codes one after the other, lowest bit first: ⌈n·bits/8⌉ bytes (uint8).

    Args:
        codes: shape (n,), whole numbers of any dtype, each in 0..2^bits − 1.
        bits: 1..8.

    Raises:
        ValueError: other codes, or bits that do not exist.
    """
    check_bits(bits)
    if codes.is_floating_point() and not torch.equal(codes, codes.round()):
        raise ValueError(f"codes of {codes.dtype} must be whole numbers: round them first")
    check_range("codes", codes.to(torch.int64), 2**bits - 1)
    flat = F.pad(codes.to(torch.int64), (0, -codes.numel() % 8))
    # Eight codes of any width fill a whole number of bytes and fit in one 64-bit word.
    words = (flat.view(-1, 8) << _steps(8, bits, codes.device)).sum(dim=1)
    split = (words[:, None] >> _steps(bits, 8, codes.device)) & 255
    return split.to(torch.uint8).flatten()[: packed_bytes(codes.numel(), bits)].contiguous()


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of `pack(codes, bits)`, shape (count,), uint8.

    Raises:
        ValueError: too few bytes for that many codes, or bits that do not exist.
    """
    check_bits(bits)
    if packed.dtype != torch.uint8 or packed.numel() < packed_bytes(count, bits):
        needed = packed_bytes(count, bits)
        raise ValueError(
            f"{count} codes of {bits} bits are {needed} bytes (uint8), and these are "
            f"{packed.numel()} of {packed.dtype}"
        )
    flat = F.pad(packed.to(torch.int64), (0, -packed.numel() % bits))
    words = (flat.view(-1, bits) << _steps(bits, 8, packed.device)).sum(dim=1)
    codes = (words[:, None] >> _steps(8, bits, packed.device)) & (2**bits - 1)
    return codes.to(torch.uint8).flatten()[:count]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    return -(-count * bits // 8)


def check_bits(bits: int) -> None:
    """Raise ValueError unless codes of that many bits exist."""
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in BITS:
        raise ValueError(f"bits={bits!r} does not exist: give an integer in 1..8")


def _steps(count: int, width: int, device: torch.device) -> Tensor:
    return torch.arange(0, count * width, width, device=device)


@dataclass(frozen=True)
class Layout:
    """The layout of the codes of a matrix, and groups of weights that share a scale or codebook.

    Args:
        shape: (out, in).
        bits: of one code, 1..8.
        group_size: how many consecutive inputs of a row share one; the last group of a row is
            shorter where the row cannot be divided. ``"channel"``: a whole row; ``"tensor"``: all.

    Raises:
        ValueError: bits or a group size that does not exist, or what is no shape of a matrix.
    """

    shape: tuple[int, int]
    bits: int
    group_size: int | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", pair_of("shape", self.shape, least=0))
        check_bits(self.bits)
        check_group_size(self.group_size)

    @property
    def width(self) -> int:
        """Weights in the longest group."""
        length = self._lines[1]
        return min(self.group_size, length) if isinstance(self.group_size, int) else length

    @property
    def count(self) -> int:
        """The number of groups."""
        lines, length = self._lines
        return lines * -(-length // self.width) if length else lines

    @property
    def code_bytes(self) -> int:
        """Bytes of all codes."""
        return packed_bytes(self.shape[0] * self.shape[1], self.bits)

    def split(self, matrix: Tensor) -> Tensor:
        """A matrix (out, in) as groups (count, width); shorter groups are filled up with zeros."""
        lines, length = self._lines
        padded = F.pad(matrix.reshape(lines, length), (0, -length % max(self.width, 1)))
        return padded.reshape(self.count, self.width)

    def join(self, groups: Tensor) -> Tensor:
        """The matrix (out, in) of its groups: the inverse of `split`."""
        lines, length = self._lines
        return groups.reshape(lines, groups.numel() // lines)[:, :length].reshape(self.shape)

    def filled(self, device: torch.device) -> Tensor:
        """Which entries of the groups (count, width) are weights and not filling, bool."""
        return self.split(torch.ones(self.shape, dtype=torch.bool, device=device))

    def describe(self) -> str:
        """Such as ``784→300, 4 bits, group 64``."""
        size = self.group_size
        groups = f"group {size}" if isinstance(size, int) else f"per {size}"
        return f"{self.shape[1]}→{self.shape[0]}, {self.bits} bits, {groups}"

    @property
    def _lines(self) -> tuple[int, int]:
        """The number of lines that are divided into groups, and the length of each."""
        rows, columns = self.shape
        return (1, rows * columns) if self.group_size == "tensor" else (rows, columns)


def check_group_size(group_size: int | str) -> None:
    """Raise ValueError unless weights can be grouped so."""
    is_size = isinstance(group_size, int) and not isinstance(group_size, bool) and group_size >= 1
    if not is_size and group_size not in ("channel", "tensor"):
        raise ValueError(
            f"group_size={group_size!r} does not exist: give a number of consecutive inputs that "
            "share a scale, at least 1, or 'channel' (a row) or 'tensor'"
        )
