"""The index of kept blocks by the gaps between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from lowrank.factorizations.block_grid import BlockGrid
from lowrank.factorizations.packing import check_bits
from lowrank.factorizations.symbol_coding import CODINGS, coding_named
from lowrank.files.fields import Fields


@dataclass(frozen=True)
class GapIndex:
    """The index of kept blocks by how many pruned ones lie between each and the one before it.

    Blocks are counted row after row. A gap that does not fit in `bits` is padded: the largest
    symbol, 2^bits − 1, stands for as many pruned blocks and for no kept one. Han et al. pad by
    kept zeros, whose codes take bits too; here a symbol less says how long a gap is.

    With 4 or 5 bits smaller than a bitmask below about 20 % kept weights, and than CSR where those
    are not very few. An adapting coding (`symbol_coding`) gains where gaps differ, as in rows or
    columns that were pruned more than others.

    Args:
        grid: the blocks.
        bits: of a gap, 1..8.
        coding: of the gaps: ``"fixed"`` width, ``"huffman"`` or ``"ans"``.
        entries: gaps and paddings.
        stream_bytes: of all of them, coded.

    Raises:
        ValueError: bits or a coding that does not exist.

    Source: Han, Mao & Dally, ICLR 2016, section 2 and figure 2.
    """

    grid: BlockGrid
    bits: int
    coding: str
    entries: int = 0
    stream_bytes: int = 0

    def __post_init__(self) -> None:
        check_bits(self.bits)
        coding_named(self.coding)

    @classmethod
    def of(
        cls, grid: BlockGrid, kept: Tensor, bits: int, coding: str
    ) -> tuple[Self, dict[str, Tensor]]:
        """The index of a mask of blocks, shape `grid.size`, and its tensors."""
        check_bits(bits)
        places = kept.flatten().nonzero()[:, 0]
        gaps = places.diff(prepend=places.new_full((1,), -1)) - 1
        largest = 2**bits - 1
        ends = (gaps // largest + 1).cumsum(0)
        symbols = gaps.new_full((int(ends[-1]) if len(ends) else 0,), largest)
        symbols[ends - 1] = gaps % largest
        stream, table = coding_named(coding).encode(symbols, bits)
        return cls(grid, bits, coding, len(symbols), len(stream)), _named(stream, table)

    def blank(self) -> dict[str, Tensor]:
        """Tensors of the shapes and dtypes of its own."""
        table = coding_named(self.coding).table_bytes(self.bits)
        sizes = torch.zeros(self.stream_bytes, dtype=torch.uint8)
        return _named(sizes, torch.zeros(table, dtype=torch.uint8))

    def check_index(self, index: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless it is the index of some mask of blocks."""
        self._places(index)

    def decode(self, index: Mapping[str, Tensor]) -> Tensor:
        """The mask of blocks, shape `grid.size`."""
        places = self._places(index)
        kept = torch.zeros(self.grid.count, dtype=torch.bool, device=places.device)
        kept[places] = True
        return kept.view(self.grid.size)

    def _places(self, index: Mapping[str, Tensor]) -> Tensor:
        """Of the kept blocks, ascending."""
        stream = index["gaps"]
        table = index.get("gap_table", stream)
        found = coding_named(self.coding).decode(stream, table, self.bits, self.entries).long()
        is_padding = found == 2**self.bits - 1
        places = ((found + ~is_padding).cumsum(0) - 1)[~is_padding]
        if len(places) and int(places[-1]) >= self.grid.count:
            raise ValueError(
                f"the gaps of a sparse matrix reach block {int(places[-1])}, and it has "
                f"{self.grid.count}"
            )
        return places

    def config(self) -> dict[str, Any]:
        """JSON from which, with the grid, `from_config` makes it again."""
        return {
            "bits": self.bits,
            "coding": self.coding,
            "entries": self.entries,
            "stream_bytes": self.stream_bytes,
        }

    @classmethod
    def from_config(cls, grid: BlockGrid, config: Fields) -> Self:
        coding, bits = config.one_of("coding", CODINGS), config.integer("bits", 1, 8)
        # Each padding stands for a pruned block at least.
        entries = config.integer("entries", most=grid.count)
        return cls(grid, bits, coding, entries, config.integer("stream_bytes"))

    def describe(self) -> str:
        """Such as ``gaps of 5 bits, huffman``."""
        coded = f", {self.coding}" if coding_named(self.coding).adapts else ""
        return f"gaps of {self.bits} bits{coded}"


def _named(stream: Tensor, table: Tensor) -> dict[str, Tensor]:
    """The tensors by the names of their buffers; a table without bytes is left out."""
    return {"gaps": stream} | ({"gap_table": table} if len(table) else {})
