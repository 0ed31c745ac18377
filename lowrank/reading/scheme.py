"""The interface of the ways in which other tools store quantized layers, and what these share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from lowrank.factorizations import Factorization, Quantized, ReorderedColumns
from lowrank.factorizations.packing import Layout, unpack
from lowrank.factorizations.quantized import symmetric_zero
from lowrank.files.fields import Fields
from lowrank.reading.stored import LayerTensors, StoredTensor

REALS = (torch.float16, torch.bfloat16, torch.float32)


class LayerReader(ABC):
    """What makes factorizations of the tensors of layers; its text says how they were stored."""

    @abstractmethod
    def read(
        self, parts: LayerTensors, shape: tuple[int, int], dtype: torch.dtype
    ) -> Factorization:
        """The same matrix (out, in) as a factorization; dense if it is to be stored as it is.

        Args:
            parts: the tensors of the layer.
            dtype: of the matrix.

        Raises:
            ValueError: they are not those of such a matrix.
        """


class Scheme(LayerReader):
    """The way in which a tool stores quantized layers, as a config describes it.

    Attributes:
        method: its name in the field ``quant_method`` of a config.
    """

    method: ClassVar[str]

    @classmethod
    @abstractmethod
    def of(cls, config: Fields) -> Self:
        """The scheme that a config describes.

        Raises:
            ValueError: one that is not read.
        """


def words(stored: StoredTensor, rows: int, columns: int, bits: int, dim: int = 1) -> Tensor:
    """Codes (rows, columns) that are packed without gaps, lowest bit first, in integers of 32 bits.

    Args:
        dim: along which they are packed.

    Raises:
        ValueError: a tensor of another shape or dtype.
    """
    along = -(-(columns if dim else rows) * bits // 32)
    packed = stored.read((rows, along) if dim else (along, columns), torch.int32)
    packed = packed if dim else packed.T
    lines, count = (rows, columns) if dim else (columns, rows)
    streams = packed.contiguous().view(torch.uint8).view(lines, 4 * along)
    if 32 * along != count * bits:  # Lines end in unused bits.
        codes = torch.stack([unpack(line, bits, count) for line in streams])
    else:
        codes = unpack(streams.flatten(), bits, lines * count).view(lines, count)
    return codes if dim else codes.T


def layout_of(shape: tuple[int, int], bits: int, size: int) -> Layout:
    """The layout of codes in groups of so many columns; −1 or more than there are: of a whole row.

    Raises:
        ValueError: no such group size.
    """
    whole = size == -1 or size >= shape[1]
    return Layout(shape, bits, "channel" if whole else size)


def per_row(layout: Layout) -> int:
    """The number of groups in a row."""
    return layout.count // layout.shape[0]


def grouped(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    layout: Layout,
    dtype: torch.dtype,
    groups: Tensor | None = None,
) -> Factorization:
    """W = (code − zero) · scale.

    Args:
        codes: shape (out, in), in 0..2^bits − 1.
        scale, zero: shape (out, groups); without `zero` it is 2^(bits−1).
        groups: of each column its group, shape (in,), where they may not be neighbours.

    Raises:
        ValueError: the columns are not divided into groups of the size of the layout.
    """
    columns, size = codes.shape[1], layout.width
    order = None
    if groups is not None:
        order = torch.argsort(groups, stable=True)
        even = torch.arange(columns) // size
        if not torch.equal(groups[order].to(torch.int64), even):
            raise ValueError(f"its groups of columns do not all have {size}")
        order = None if torch.equal(order, torch.arange(columns)) else order
        codes = codes if order is None else codes[:, order]
    if zero is not None and bool((zero == symmetric_zero(layout.bits)).all()):
        zero = None
    zeros = None if zero is None else zero.flatten()
    form = Quantized(layout, codes, scale.flatten(), zeros, dtype)
    return form if order is None else ReorderedColumns(form, order)
