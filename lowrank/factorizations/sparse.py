"""A sparse matrix: values of the blocks that a mask keeps, and an index of these blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from lowrank.factorizations.block_grid import BlockGrid
from lowrank.factorizations.configs import shape_in
from lowrank.factorizations.factorization import Dense, Factorization, Leaf, rebuild
from lowrank.factorizations.gap_index import GapIndex
from lowrank.factorizations.tracing import is_exported
from lowrank.factorizations.watched import watch
from lowrank.files.fields import Fields

ONE_ROW = "rows keep different numbers of weights: the values were taken as one row, of all of them"


class Sparse(Leaf):
    """Values at the positions of kept blocks, zero elsewhere.

    Stored are the values alone and an index: one bit for each block of the matrix, or the columns
    of the kept blocks and where each row of blocks begins (CSR), in integers of 1, 2 or 4 bytes,
    whichever is smaller; or, if asked for (`with_gaps`), the gaps between kept blocks. Single
    weights of 32 bits are smaller than a dense matrix from about 3 % zeros (bitmask). Only stored
    values are trained, so neither weight decay nor momentum can bring a pruned weight back.
    Multiplied as a dense matrix: zeros save bytes, not time.

    Args:
        grid: shape and blocks.
        kept: which blocks are kept, bool, shape `grid.size`.
        values: the kept weights, row after row. A factorization of shape (rows that keep any, k)
            where each of them keeps the same number k (N:M patterns, columns, rows), and so can be
            quantized row by row; of shape (1, nnz) otherwise, which `map_dense` notes.

    Raises:
        ValueError: kept blocks that are not those of the grid, or another number of values.

    Source: CSR: Saad, Iterative Methods for Sparse Linear Systems, 2003, section 3.4.
    """

    mask: Tensor

    def __init__(self, grid: BlockGrid, kept: Tensor, values: Factorization) -> None:
        mask, number = grid.expand(kept), int(kept.sum())
        # Blocks at the edge may be smaller; which of them are kept is not known before loading.
        if not number <= values.shape[0] * values.shape[1] <= number * math.prod(grid.block):
            raise ValueError(
                f"values of shape {values.shape} do not fit {number} kept blocks of {grid.block}"
            )
        super().__init__(grid.shape)
        self._hold((grid, grid), grid.encode(kept), mask, values)

    def _hold(
        self,
        forms: tuple[BlockGrid, BlockGrid | GapIndex],
        index: dict[str, Tensor],
        mask: Tensor,
        values: Factorization,
    ) -> None:
        self.grid, self.index_form = forms
        self.values = values
        self._index_names = tuple(index)
        for name, tensor in index.items():
            self.register_buffer(name, tensor)
        # Follows from the index: moved along, but not stored.
        self.register_buffer("mask", mask, persistent=False)
        self._watched = watch(*index.values(), mask)
        self.register_load_state_dict_post_hook(_derive_mask)

    @classmethod
    def from_dense(cls, weight: Tensor, kept: Tensor, block: tuple[int, int] = (1, 1)) -> Self:
        """Keep the blocks `kept` of a weight (out, in)."""
        grid = BlockGrid((weight.shape[0], weight.shape[1]), block)
        mask = grid.expand(kept)
        values = weight.detach()[mask]
        lengths = mask.sum(dim=1)
        lengths = lengths[lengths > 0].unique()
        length = int(lengths[0]) if len(lengths) == 1 else values.numel()
        return cls(grid, kept, Dense(values.view(values.numel() // max(length, 1) or 1, length)))

    def with_gaps(self, bits: int, coding: str = "fixed") -> Sparse:
        """The same matrix, stored with the index that `GapIndex` describes."""
        kept = self._kept()
        form, index = GapIndex.of(self.grid, kept, bits, coding)
        other = Sparse.__new__(Sparse)
        Leaf.__init__(other, self.shape, self.notes)
        other._hold((self.grid, form), index, self.grid.expand(kept), self.values)
        return other.train(self.training)

    def with_mask(self) -> Sparse:
        """The same matrix, stored with the smaller of a bitmask and CSR."""
        other = Sparse(self.grid, self._kept(), self.values)
        other.notes = self.notes
        return other.train(self.training)

    def to_dense(self) -> Tensor:
        values = self.values.to_dense()
        zeros = torch.zeros(self.shape, dtype=values.dtype, device=values.device)
        return zeros.masked_scatter(self.current_mask(), values)

    @property
    def params(self) -> int:
        return self.values.params

    @property
    def density(self) -> float:
        # The number of positions, not of the parameters that the values are made of.
        return self.values.shape[0] * self.values.shape[1] / (self.shape[0] * self.shape[1])

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        mapped = Sparse(self.grid, self._kept(), self.values.map_dense(function))
        if isinstance(self.index_form, GapIndex):
            mapped = mapped.with_gaps(self.index_form.bits, self.index_form.coding)
        is_one_row = self.values.shape[0] == 1 and int(self.current_mask().any(dim=1).sum()) > 1
        is_new = is_one_row and ONE_ROW not in self.notes
        mapped.notes = (*self.notes, ONE_ROW) if is_new else self.notes
        return mapped

    def config(self) -> dict[str, Any]:
        return {
            "type": "Sparse",
            "shape": list(self.shape),
            "block": list(self.grid.block),
            "kept_blocks": int(self._kept().sum()),
            "index": self.index_form.config() if isinstance(self.index_form, GapIndex) else None,
            "values": self.values.config(),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        height, width = config.integers("block", 2, least=1)
        grid = BlockGrid(shape_in(config), (height, width))
        kept, index_form = config.integer("kept_blocks", most=grid.count), grid
        index = grid.blank(kept)
        if config["index"] is not None:
            index_form = GapIndex.from_config(grid, config.fields("index"))
            index = index_form.blank()
        form = cls.__new__(cls)
        Leaf.__init__(form, grid.shape)
        mask = torch.zeros(grid.shape, dtype=torch.bool)
        form._hold((grid, index_form), index, mask, rebuild(config.fields("values")))
        return form

    def current_mask(self) -> Tensor:
        """The mask (out, in), made anew if the index was written to.

        Raises:
            ValueError: the index is no longer that of some mask, or not of as many weights.
        """
        if is_exported() and self.index_form == self.grid:
            return self.grid.expand(self._kept())
        if self._watched.misses([*self._index().values(), self.mask]):
            # Not an inference tensor: it may be used in training later.
            with torch.inference_mode(False):
                _derive_mask(self, None)
            self._check_count()
        return self.mask

    def check_stored(self) -> None:
        self.current_mask()
        self._check_count()

    def _check_count(self) -> None:
        kept, (rows, columns) = int(self.mask.sum()), self.values.shape
        if kept != rows * columns:
            raise ValueError(
                f"the index of a sparse matrix keeps {kept} weights, and it has {rows * columns} "
                "values"
            )

    def describe(self) -> str:
        rows, columns = self.shape
        height, width = self.grid.block
        blocks = "" if self.grid.block == (1, 1) else f" in blocks of {height}x{width}"
        zeros = f"{100 * (1 - self.density):.1f} % zeros"
        values = "" if isinstance(self.values, Dense) else f", values {self.values.describe()}"
        form = "bitmask" if "bitmask" in self._index_names else "CSR"
        if isinstance(self.index_form, GapIndex):
            form = self.index_form.describe()
        return f"Sparse {columns}→{rows}, {zeros}{blocks} ({form}){values}"

    def _kept(self) -> Tensor:
        """The mask of blocks."""
        return self.index_form.decode(self._index())

    def _index(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(name) for name in self._index_names}


def _derive_mask(sparse: Sparse, _: Any) -> None:
    """After other indices were loaded, the mask is another one too."""
    sparse.index_form.check_index(sparse._index())
    sparse.mask = sparse.grid.expand(sparse._kept())
    sparse._watched = watch(*sparse._index().values(), sparse.mask)
