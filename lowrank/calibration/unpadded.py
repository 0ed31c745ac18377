"""Removal of padding before the model runs, so that layers get real positions only.

A batch with padding runs in pieces: single examples, or examples with the same real positions, each
tensor cut to these positions. No mask is then needed inside the model, where experts see some of
the positions and a strided convolution skips some. If a batch cannot be cut, its examples run
whole, and the layers whose positions are those of the mask leave padding out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.calibration.arguments import given_as, named
from lowrank.calibration.axes import COUNTED, Axes, Unclear, Whole, axes_of
from lowrank.calibration.masks import is_mask
from lowrank.calibration.piece import Piece
from lowrank.calibration.streams import Reading, read
from lowrank.model.batch import Batch
from lowrank.model.nested import tensors, with_tensors

# The first real position and the number of real positions of each stream, by its prefix.
Spans = Mapping[str, tuple[int, int]]

UNREAD = "the argument {} was not taken for padding"


def unpadded(model: nn.Module, batch: Batch, number: int, alone: bool) -> list[Piece]:
    """The pieces in which a batch runs; a batch without padding is one piece.

    An example that holds padding alone is left out.

    Args:
        number: the number of the batch, from 0.
        alone: whether examples with the same real positions run apart too.

    Raises:
        ValueError: the batch holds padding alone.
    """
    arguments = named(model, batch)
    reading = read(model, {n: v for n, v in arguments.items() if isinstance(v, Tensor)})
    notes = () if reading is None else tuple(map(UNREAD.format, reading.unread))
    if reading is None or not reading.padded:
        return [Piece(batch, len(batch), number, notes)]
    rows = real_rows(reading, number)
    try:
        can_cut = can_be_cut(reading, arguments)
    except Whole:
        real = real_of(reading, torch.arange(reading.batch))
        return [Piece(given_as(batch, arguments, real), len(rows), number, notes)]
    alike: dict[Any, list[int]] = {}
    for row in rows:
        spans = spans_of(reading, row) if can_cut else None
        # An example that runs whole with its padding has its own real positions.
        is_own = alone or (spans is None and not all_real(reading, row))
        alike.setdefault(row if is_own else str(spans), []).append(row)
    pieces = []
    for group in alike.values():
        spans = spans_of(reading, group[0]) if can_cut else None
        values, real = part_of(reading, arguments, group, spans)
        cut = () if spans is None else tuple(stream.mask for stream in reading.padded)
        pieces.append(Piece(given_as(batch, values, real), len(group), number, notes, cut))
    return pieces


def part_of(
    reading: Reading, arguments: Mapping[str, Any], rows: list[int], spans: Spans | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The named arguments of examples with the same real positions, and their real positions if
    they run with padding.
    """
    index = torch.tensor(rows)
    part = partial(part_of_tensor, reading, rows=index, spans=spans)
    values = {n: with_tensors(value, partial(part, n)) for n, value in arguments.items()}
    is_whole = spans is None and not all_real(reading, rows[0])
    return values, real_of(reading, index) if is_whole else {}


def real_rows(reading: Reading, number: int) -> list[int]:
    """The examples with a real position in every stream.

    Raises:
        ValueError: there are none.
    """
    shown = [stream.real.any(dim=1) for stream in reading.padded]
    rows = torch.stack(shown).all(dim=0).nonzero().flatten().tolist()
    if not rows:
        masks = " and ".join(stream.mask for stream in reading.padded)
        raise ValueError(
            f"calibration batch {number} is all padding by {masks}, in which no position of any "
            "example is real: leave it out, or check which value marks padding"
        )
    return rows


def can_be_cut(reading: Reading, arguments: Mapping[str, Any]) -> bool:
    """Whether the padding of an example can be cut off.

    Raises:
        Whole: the batch cannot be divided into examples.
    """
    if not reading.is_sure:
        raise Whole
    clear, followed = True, set()
    for name, value in arguments.items():
        for tensor in tensors(value):
            try:
                axes = axes_of(reading, name, tensor)
            except Unclear:
                clear = False
                continue
            if not is_mask(name) and name != COUNTED:
                followed |= {stream.prefix for stream in axes.cut.values()}
    # A mask that applies to no input is for positions that the model makes itself.
    return clear and all(stream.prefix in followed for stream in reading.padded)


def spans_of(reading: Reading, row: int) -> Spans | None:
    """The span of real positions in each stream of an example; None if padding lies inside."""
    spans = {}
    for prefix, stream in reading.streams.items():
        real = stream.real[row].nonzero().flatten()
        start, count = int(real[0]), len(real)
        if int(real[-1]) + 1 - start != count:
            return None
        spans[prefix] = start, count
    return spans


def all_real(reading: Reading, row: int) -> bool:
    """Whether an example holds no padding."""
    return all(bool(stream.real[row].all()) for stream in reading.padded)


def part_of_tensor(
    reading: Reading, name: str, tensor: Tensor, *, rows: Tensor, spans: Spans | None
) -> Tensor:
    """The examples `rows` of a tensor, cut to `spans`; whole if that is None."""
    try:
        axes = axes_of(reading, name, tensor)
    except Unclear as error:
        axes = Axes(error.batch, {})
    if axes.batch is not None:
        tensor = tensor.index_select(axes.batch, rows.to(tensor.device))
    if spans is None:
        return tensor
    for axis, stream in axes.cut.items():
        start, count = spans[stream.prefix]
        tensor = tensor.narrow(axis, 0 if name == COUNTED else start, count)
    return tensor


def real_of(reading: Reading, rows: Tensor) -> dict[str, Tensor]:
    """The real positions of the examples `rows`, by the name of their mask or tensor."""
    found = {stream.mask: stream.real[rows] for stream in reading.streams.values()}
    like = next(iter(found.values()))
    for name, tensor in reading.arguments.items():
        if is_mask(name) or tensor.ndim < 2:
            continue
        length, stream = tensor.shape[0 if reading.turned else 1], reading.stream_of(name)
        if stream is None or stream.length != length:
            found[name] = like.new_ones(len(rows), length)
    return found
