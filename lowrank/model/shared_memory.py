"""Detection of tensors that are the same memory, and of tensors that only overlap."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping

import torch
from torch import Tensor


def identity(tensor: Tensor) -> Hashable:
    """Equal for two tensors that are the same numbers in the same memory."""
    return (
        *place(tensor),
        tensor.storage_offset(),
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
    )


def overlapping(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Of each tensor that shares elements with others in another layout, the names of those.

    Such are a transposed view, or rows of a larger matrix; tensors that are the same memory in the
    same layout are not meant.
    """
    found: dict[str, list[str]] = {}
    for first, second in meeting(tensors):
        if overlap(tensors[first], tensors[second]):
            found.setdefault(first, []).append(second)
            found.setdefault(second, []).append(first)
    places = {name: number for number, name in enumerate(tensors)}
    return {name: sorted(found[name], key=places.__getitem__) for name in tensors if name in found}


def meeting(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Pairs of names whose spans meet."""
    spans = sorted((place(t)[0], *span(t), n) for n, t in tensors.items() if t.numel())
    open_ended: list[tuple[str, int, str]] = []
    for device, start, stop, name in spans:
        # The spans that begin before this one and may overlap it.
        open_ended = [one for one in open_ended if one[0] == device and one[1] > start]
        yield from ((other, name) for _, _, other in open_ended)
        open_ended.append((device, stop, name))


def groups(tensors: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names whose spans meet one another's, in the order of the mapping; others by themselves."""
    places = {name: place for place, name in enumerate(tensors)}
    spans = {n: (place(t)[0], *span(t)) for n, t in tensors.items() if t.numel()}
    group: list[str] = []
    device, end = "", 0
    for name in sorted(spans, key=lambda name: spans[name]):
        where, start, stop = spans[name]
        if where != device or start >= end:
            yield sorted(group, key=lambda name: places[name])
            group, device, end = [], where, 0
        group.append(name)
        end = max(end, stop)
    yield sorted(group, key=lambda name: places[name])


def overlap(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one group share an element, in layouts that differ.

    Of two dtypes, whether their spans meet.
    """
    if identity(tensor) == identity(other):
        return False
    (start, stop), (first, last) = span(tensor), span(other)
    if stop <= first or last <= start:
        return False
    if tensor.dtype != other.dtype or (start - first) % tensor.itemsize:
        return True
    if tensor.is_contiguous() and other.is_contiguous():
        return True
    # Columns of one matrix interleave in memory without sharing elements.
    low, itemsize = min(start, first), tensor.itemsize
    taken = torch.zeros((max(stop, last) - low) // itemsize, dtype=torch.bool)
    taken.as_strided(tensor.shape, tensor.stride(), (start - low) // itemsize).fill_(True)
    return bool(taken.as_strided(other.shape, other.stride(), (first - low) // itemsize).any())


def span(tensor: Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its device's memory, and the first after its last one."""
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = place(tensor)[1] + int(tensor.storage_offset()) * tensor.itemsize
    return start, start + (int(last) + 1) * tensor.itemsize


def place(tensor: Tensor) -> tuple[str, int]:
    """The device and where in its memory the storage begins.

    A storage without memory, such as one on the meta device, is a place by itself.
    """
    storage = tensor.untyped_storage()
    at = storage.data_ptr()
    return (str(tensor.device), at) if at else (f"{tensor.device} {storage._cdata}", 0)
