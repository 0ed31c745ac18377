"""A matrix cut into blocks, and the index of those that are kept."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.factorizations.packing import pack, packed_bytes, unpack
from lowrank.numerics.checks import pair_of


@dataclass(frozen=True)
class BlockGrid:
    """A matrix cut into blocks; those at the right and lower edge may be smaller.

    Args:
        shape: (out, in) of the matrix.
        block: (height, width) of a block: (1, 1) for single weights, (1, in) for rows, (out, 1)
            for columns.

    Raises:
        ValueError: a block without weights, or what is no shape of a matrix.
    """

    shape: tuple[int, int]
    block: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", pair_of("shape", self.shape, least=0))
        object.__setattr__(self, "block", pair_of("block", self.block))

    @property
    def size(self) -> tuple[int, int]:
        """The number of blocks of the matrix, (down, across)."""
        (rows, columns), (height, width) = self.shape, self.block
        return -(-rows // height), -(-columns // width)

    @property
    def count(self) -> int:
        """The number of blocks."""
        return self.size[0] * self.size[1]

    def expand(self, kept: Tensor) -> Tensor:
        """The mask (out, in) of a mask of blocks.

        Raises:
            ValueError: what is no mask of these blocks.
        """
        if tuple(kept.shape) != self.size or kept.dtype != torch.bool:
            raise ValueError(
                f"kept blocks of shape {tuple(kept.shape)} and {kept.dtype} do not fit {self}, "
                f"which needs {self.size} and torch.bool"
            )
        height, width = self.block
        mask = kept.repeat_interleave(min(height, self.shape[0]), 0)
        mask = mask.repeat_interleave(min(width, self.shape[1]), 1)
        return mask[: self.shape[0], : self.shape[1]].contiguous()

    def sum(self, matrix: Tensor) -> Tensor:
        """The sum over each block of a matrix (out, in), shape `size`."""
        (rows, columns), (height, width) = self.shape, self.block
        padding = (0, -columns % width, 0, -rows % height)
        padded = torch.nn.functional.pad(matrix, padding)
        return padded.view(self.size[0], height, self.size[1], width).sum(dim=(1, 3))

    def index_bytes(self, kept: int) -> int:
        """Bytes of the index of that many kept blocks, in the smaller form."""
        return min(packed_bytes(self.count, 1), self._csr_bytes(kept))

    def stored_bytes(self, kept: int, itemsize: int) -> int:
        """Bytes of `kept` blocks, none of them at an edge: values and index."""
        return kept * math.prod(self.block) * itemsize + self.index_bytes(kept)

    def affordable(self, limit: float, itemsize: int) -> int:
        """The most blocks that `stored_bytes` has within `limit`; 0 if none."""
        counts = range(1, self.count + 1)
        return bisect_right(counts, limit, key=lambda kept: self.stored_bytes(kept, itemsize))

    def encode(self, kept: Tensor) -> dict[str, Tensor]:
        """The smaller of a packed bitmask and compressed sparse rows (CSR) of a mask of blocks."""
        number = int(kept.sum())
        if self._is_bitmask(number):
            return {"bitmask": pack(kept.flatten(), 1)}
        pointer, column = self._csr_dtypes(number)
        ends = kept.sum(dim=1).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])
        columns = kept.nonzero()[:, 1]
        return {"row_pointers": starts.to(pointer), "columns": columns.to(column)}

    def blank(self, kept: int) -> dict[str, Tensor]:
        """Tensors of the shapes and dtypes of the encoding of a mask of `kept` blocks."""
        if self._is_bitmask(kept):
            return {"bitmask": torch.zeros(packed_bytes(self.count, 1), dtype=torch.uint8)}
        pointer, column = self._csr_dtypes(kept)
        return {
            "row_pointers": torch.zeros(self.size[0] + 1, dtype=pointer),
            "columns": torch.zeros(kept, dtype=column),
        }

    def check_index(self, index: dict[str, Tensor]) -> None:
        """Raise ValueError unless it is the encoding of some mask of blocks."""
        if "bitmask" in index:
            return
        starts, columns = (index[name].to(torch.int64) for name in ("row_pointers", "columns"))
        is_wrong = starts[0] != 0 or starts[-1] != len(columns) or bool((starts.diff() < 0).any())
        if is_wrong:
            raise ValueError(
                f"the row pointers of a sparse matrix rise from 0 to {len(columns)}, the number of "
                "its kept blocks; these do not"
            )
        outside = (columns < 0) | (columns >= self.size[1])
        if bool(outside.any()):
            raise ValueError(
                f"{int(outside.sum())} columns of a sparse matrix lie outside 0..{self.size[1] - 1}"
            )

    def decode(self, index: dict[str, Tensor]) -> Tensor:
        """The mask of blocks, shape `size`, of its encoding."""
        if "bitmask" in index:
            return unpack(index["bitmask"], 1, self.count).view(self.size).bool()
        columns = index["columns"].to(torch.int64)
        lengths = index["row_pointers"].to(torch.int64).diff()
        row = torch.arange(self.size[0], device=columns.device).repeat_interleave(
            lengths, output_size=len(columns)
        )
        kept = torch.zeros(self.size, dtype=torch.bool, device=columns.device)
        kept[row, columns] = True
        return kept

    def _is_bitmask(self, kept: int) -> bool:
        return packed_bytes(self.count, 1) <= self._csr_bytes(kept)

    def _csr_dtypes(self, kept: int) -> tuple[torch.dtype, torch.dtype]:
        return _smallest_dtype(kept), _smallest_dtype(self.size[1] - 1)

    def _csr_bytes(self, kept: int) -> int:
        pointer, column = self._csr_dtypes(kept)
        return (self.size[0] + 1) * pointer.itemsize + kept * column.itemsize


def _smallest_dtype(largest: int) -> torch.dtype:
    """The smallest integer dtype that holds 0..largest."""
    for dtype in (torch.uint8, torch.uint16, torch.int32):
        if largest <= torch.iinfo(dtype).max:
            return dtype
    raise ValueError(f"an index of {largest} does not fit in 32 bits")
