"""The axes of a tensor: the one along the examples of a batch, and those along its positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from lowrank.calibration.masks import is_mask
from lowrank.calibration.streams import Reading, Stream, begins

COUNTED = "cache_position"  # Counts from the first real position; has no batch axis.


class Axes(NamedTuple):
    """The axis of a tensor's examples and the axes of its positions.

    Attributes:
        batch: the axis of the examples; None if all of them share the tensor.
        cut: the axes of positions, each with the stream that they belong to.
    """

    batch: int | None
    cut: Mapping[int, Stream]


class Unclear(Exception):
    """An axis of a tensor may hold the positions of a stream or something else, so it cannot be
    cut.

    Attributes:
        batch: the axis of its examples; None if all of them share it.
    """

    def __init__(self, batch: int | None) -> None:
        super().__init__(batch)
        self.batch = batch


class Whole(Exception):
    """A tensor that cannot be divided into examples."""


def axes_of(reading: Reading, name: str, tensor: Tensor) -> Axes:
    """The axes of the tensor in the argument `name`.

    Raises:
        Unclear, Whole: the axes cannot be determined.
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
    """The axes of a tensor that belongs to no stream.

    Raises:
        Unclear: it is as long as a stream and may belong to it.
    """
    stream = reading.could_be_of(name)
    if stream is not None and stream.is_padded and stream.length in tensor.shape[1:2]:
        raise Unclear(batch)
    return Axes(batch, {})


def _of_pairs(reading: Reading, name: str, mask: Tensor) -> Axes:
    """The axes of a mask (…, queries, keys). If it has more than two axes, the first may hold the
    examples.
    """
    batch = None if mask.ndim == 2 else _batch_axis(reading, mask, 0)
    keys = reading.stream_of(name)
    crosses = any(begins(name, prefix) for prefix in ("encoder", "memory"))
    others = reading.streams.get("tgt") or reading.streams.get("")
    queries = others if crosses else keys
    axes = {mask.ndim - 2: queries, mask.ndim - 1: keys}
    return Axes(batch, {a: s for a, s in axes.items() if s and mask.shape[a] == s.length})


def _batch_axis(reading: Reading, tensor: Tensor, first: int) -> int | None:
    """The axis `first` if it holds the examples; None if all examples share the tensor.

    Raises:
        Whole: the axis has neither the length of the batch nor length 1.
    """
    if tensor.shape[first] == reading.batch:
        return first
    if tensor.shape[first] == 1 or reading.batch == 1:
        return None
    raise Whole
