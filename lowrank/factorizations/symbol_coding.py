"""Codings of the symbols of a matrix, such as codes of levels and gaps between positions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.factorizations import ans, prefix_code
from lowrank.factorizations.checks import check_range
from lowrank.factorizations.packing import check_bits, pack, packed_bytes, unpack
from lowrank.numerics.checks import check_one_of

# The frequencies, up to a factor, for which a byte stands: 0, and 5 binary digits times a power.
SHARES = torch.tensor([0, *((16 + byte % 16) << byte // 16 for byte in range(1, 256))])


class SymbolCoding(ABC):
    """A way to write integers in 0..2^bits − 1 as bytes.

    Law: `decode` gives what `encode` was given.

    Attributes:
        adapts: whether frequent symbols take fewer bits; a table then says how many.
    """

    adapts: ClassVar[bool] = True

    @abstractmethod
    def table_bytes(self, bits: int) -> int:
        """Bytes of the table."""

    @abstractmethod
    def encode(self, symbols: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Symbols (n,), integers, as a stream and a table (uint8).

        Raises:
            ValueError: a symbol outside 0..2^bits − 1, or bits other than 1..8.
        """

    @abstractmethod
    def decode(self, stream: Tensor, table: Tensor, bits: int, count: int) -> Tensor:
        """The symbols (count,), integers of any dtype.

        Raises:
            ValueError: the stream is not one of that many symbols with this table.
        """


class FixedWidth(SymbolCoding):
    """All symbols in equally many bits."""

    adapts: ClassVar[bool] = False

    def table_bytes(self, bits: int) -> int:
        del bits
        return 0

    def encode(self, symbols: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        stream = pack(symbols, bits)
        return stream, stream.new_empty(0)

    def decode(self, stream: Tensor, table: Tensor, bits: int, count: int) -> Tensor:
        del table
        if len(stream) != packed_bytes(count, bits):
            raise ValueError(
                f"{count} symbols of {bits} bits are {packed_bytes(count, bits)} bytes, not "
                f"{len(stream)}"
            )
        return unpack(stream, bits, count)


class Huffman(SymbolCoding):
    """Words of whole bits, the shorter the more frequent the symbol.

    At most 1 bit above the entropy for each symbol, mostly below 0.1; never more than fixed width.
    The table has 4 bits for each of the 2^bits symbols.

    Source: Huffman, Proceedings of the IRE 40(9), 1952.
    """

    def table_bytes(self, bits: int) -> int:
        return packed_bytes(2**bits, 4)

    def encode(self, symbols: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        lengths = prefix_code.word_lengths(_counts(symbols, bits).tolist())
        table = pack(torch.tensor(lengths, device=symbols.device), 4)
        return prefix_code.encode(symbols, lengths), table

    def decode(self, stream: Tensor, table: Tensor, bits: int, count: int) -> Tensor:
        return prefix_code.decode(stream, unpack(table, 4, 2**bits).tolist(), count)


class ANS(SymbolCoding):
    """Fractions of bits, by asymmetric numeral systems (see `ans`).

    A symbol takes some 0.02 bits above the entropy: 4 bytes for each 2048 symbols, frequencies of 4
    binary digits, and at least one step of 4096 for a symbol that does not occur. Where the entropy
    is 0.1 bits, that is a fifth of it.

    The table has 1 byte for each of the 2^bits symbols, its frequency to 4 binary digits. That and
    4 bytes for each 2048 symbols are more than `Huffman` wastes where symbols are few, such as
    some hundred of 6 bits.
    """

    def table_bytes(self, bits: int) -> int:
        return 2**bits

    def encode(self, symbols: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        counts = _counts(symbols, bits).cpu()
        scaled = counts * SHARES[-1] // counts.max().clamp_min(1)
        number = torch.searchsorted(SHARES, scaled, right=True) - 1
        # A symbol that occurs has a frequency, however rare it is.
        table = torch.where(counts > 0, number.clamp_min(1), 0).byte().to(symbols.device)
        return ans.encode(symbols, torch.zeros_like(symbols), self._frequencies(table)), table

    def decode(self, stream: Tensor, table: Tensor, bits: int, count: int) -> Tensor:
        del bits
        contexts = torch.zeros(count, dtype=torch.int64, device=stream.device)
        return ans.decode(stream, contexts, self._frequencies(table))

    def _frequencies(self, table: Tensor) -> Tensor:
        """Integers of at least 1 that sum to 2^16, shape (1, 2^bits)."""
        shares = SHARES[table.long().cpu()]
        spare = ans.TOTAL - len(shares)
        found = 1 + shares * spare // shares.sum().clamp_min(1)
        found[int(shares.argmax())] += ans.TOTAL - found.sum()
        return found[None]


CODINGS: Mapping[str, SymbolCoding] = {"fixed": FixedWidth(), "huffman": Huffman(), "ans": ANS()}


def coding_named(name: str) -> SymbolCoding:
    """The coding of a name.

    Raises:
        ValueError: there is none.
    """
    check_one_of("coding", name, tuple(CODINGS))
    return CODINGS[name]


def _counts(symbols: Tensor, bits: int) -> Tensor:
    """How often each of 2^bits symbols occurs, int64.

    Raises:
        ValueError: others occur.
    """
    check_bits(bits)
    check_range("codes", symbols, 2**bits - 1)
    return torch.bincount(symbols.flatten().long(), minlength=2**bits)
