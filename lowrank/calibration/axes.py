"""Which axes of a tensor go along the examples of a batch, and which along its positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from lowrank.calibration.masks import is_mask
from lowrank.calibration.streams import Reading, Stream, begins

COUNTED = "cache_position"  # Counts from the first position that runs, and has no batch axis.


class Axes(NamedTuple):
    """Where a tensor has its examples and its positions.

    Attributes:
        batch: the axis of the examples; None if all of them share the tensor.
        cut: by axis, the stream of the positions along it.
    """

    batch: int | None
    cut: Mapping[int, Stream]


class Unclear(Exception):
    """A tensor has positions on an axis that is not understood: it cannot be cut.

    Attributes:
        batch: the axis of its examples; None if all of them share it.
    """

    def __init__(self, batch: int | None) -> None:
        super().__init__(batch)
        self.batch = batch


class Whole(Exception):
    """A tensor cannot be taken apart by examples."""


def axes_of(reading: Reading, name: str, tensor: Tensor) -> Axes:
    """The axes of a tensor in an argument of that name.

    Raises:
        Unclear, Whole: they cannot be told.
    """
    if not tensor.ndim:
        return Axes(None, {})
    is_pairwise = name not in reading.taken and reading.is_pairwise(tensor)
    if is_mask(name) and (tensor.ndim > 2 or is_pairwise):
        return _of_pairs(reading, name, tensor)
    stream = reading.stream_of(name)
    if name == COUNTED and tensor.ndim == 1:
        return Axes(None, {0: stream} if stream and len(tensor) == stream.length else {})
    first = 1 if reading.turned and tensor.ndim > 1 and not is_mask(name) else 0
    batch = _batch_axis(reading, tensor, first)
    if stream is None:
        return _apart(reading, name, tensor, batch)
    if tensor.ndim > 1 and tensor.shape[1 - first] == stream.length:
        return Axes(batch, {1 - first: stream})
    shared = tensor.shape if batch is None else tensor.shape[:batch] + tensor.shape[batch + 1 :]
    if stream.is_padded and stream.length in shared:
        raise Unclear(batch)
    return Axes(batch, {})


def _apart(reading: Reading, name: str, tensor: Tensor, batch: int | None) -> Axes:
    """Of a tensor that goes with no stream.

    Raises:
        Unclear: it may go with one, by its length.
    """
    stream = reading.could_be_of(name)
    if stream is not None and stream.is_padded and stream.length in tensor.shape[1:2]:
        raise Unclear(batch)
    return Axes(batch, {})


def _of_pairs(reading: Reading, name: str, mask: Tensor) -> Axes:
    """Of a mask (…, queries, keys), which has examples on the first axis, or none."""
    batch = None if mask.ndim == 2 else _batch_axis(reading, mask, 0)
    keys = reading.stream_of(name)
    crosses = any(begins(name, prefix) for prefix in ("encoder", "memory"))
    others = reading.streams.get("tgt") or reading.streams.get("")
    queries = others if crosses else keys
    axes = {mask.ndim - 2: queries, mask.ndim - 1: keys}
    return Axes(batch, {a: s for a, s in axes.items() if s and mask.shape[a] == s.length})


def _batch_axis(reading: Reading, tensor: Tensor, first: int) -> int | None:
    """Axis `first`, or None if it has no examples on it.

    Raises:
        Whole: it has something else on it, of which each example may have its own.
    """
    if tensor.shape[first] == reading.batch:
        return first
    if tensor.shape[first] == 1 or reading.batch == 1:
        return None
    raise Whole
