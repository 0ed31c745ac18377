"""Which tensors are the same memory, and which of them only overlap."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import combinations

import torch
from torch import Tensor


def identity(tensor: Tensor) -> Hashable:
    """Equal for two tensors that are the same numbers in the same memory."""
    if tensor.is_meta or not tensor.numel():  # They have no address of their own.
        return id(tensor)
    return (
        tensor.device,
        tensor.untyped_storage().data_ptr(),
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
    by_storage: dict[Hashable, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and not tensor.is_meta:
            storage = (tensor.device, tensor.untyped_storage().data_ptr())
            by_storage.setdefault(storage, []).append(name)
    found: dict[str, list[str]] = {}
    for names in by_storage.values():
        for first, second in combinations(names, 2):
            if _overlap(tensors[first], tensors[second]):
                found.setdefault(first, []).append(second)
                found.setdefault(second, []).append(first)
    return found


def _overlap(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors on one storage share an element, in layouts that differ."""
    if identity(tensor) == identity(other):
        return False
    spans = [_span(tensor), _span(other)]
    if spans[0][0] >= spans[1][1] or spans[1][0] >= spans[0][1]:
        return False
    if tensor.dtype != other.dtype:
        return True
    # Columns of one matrix lie among each other and yet are apart.
    taken = torch.zeros(max(end for _, end in spans) // tensor.itemsize, dtype=torch.bool)
    taken.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
    return bool(taken.as_strided(other.shape, other.stride(), other.storage_offset()).any())


def _span(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage between which all its elements lie."""
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset())
    return start * tensor.itemsize, (start + int(last) + 1) * tensor.itemsize
