"""Hashes of tensors by name, and of the header beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor


class Digest:
    """A hash of a header and tensors, independent of the order in which they are added."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        self._sum = self._of(json.dumps(header, sort_keys=True).encode())

    def add(self, name: str, tensor: Tensor) -> None:
        """Count a tensor on the CPU in."""
        start = f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode()
        self._sum += self._of(start, bytes_of(tensor))

    def hex(self) -> str:
        """32 digits."""
        return f"{self._sum % 2**128:032x}"

    def _of(self, *parts: Any) -> int:
        digest = xxhash.xxh3_128()
        for part in parts:
            digest.update(part)
        return digest.intdigest()


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names and numbers, in whatever order and on whatever devices: 32 hexadecimal
    digits."""
    digest = Digest({})
    for name, tensor in tensors.items():
        digest.add(name, tensor.detach().cpu().contiguous())
    return digest.hex()


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data
