"""Storage of tensors: the dtype, and so the number of bits, in which a file holds each of them.

Published weights mostly have 16 bits and are loaded in float32. Counted at 32 bits they would make
every compression of them look twice as good as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# The integers of the same bits, by which even NaN and −0 are compared.
BITS_OF = {torch.float32: torch.int32, torch.float64: torch.int64}
# Few weights of float16 are exact in bfloat16, so that the first block tells, while most of those
# of bfloat16 are exact in float16 too.
NARROWER = {
    torch.float32: (torch.bfloat16, torch.float16),
    torch.float64: (torch.bfloat16, torch.float16, torch.float32),
}
# The sizes of the first and of the largest block that is tested.
LEAST, MOST = 2**10, 2**22


def stored_dtype(tensor: Tensor) -> torch.dtype:
    """The narrowest dtype that holds every number of a tensor bit for bit.

    bfloat16, float16 or float32 for float32 and float64. All other dtypes stay as they are, and so
    do tensors on the meta device, which have no numbers.
    """
    if tensor.is_meta:
        return tensor.dtype
    allowed = NARROWER.get(tensor.dtype, ())
    return next((dtype for dtype in allowed if _is_exact(tensor, dtype)), tensor.dtype)


def stored_bytes(tensor: Tensor) -> int:
    """Bytes that a tensor takes in a file."""
    return tensor.numel() * stored_dtype(tensor).itemsize


def _is_exact(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether `dtype` holds every number exactly."""
    bits = BITS_OF[tensor.dtype]
    return all(
        torch.equal(block.view(bits), block.to(dtype).to(block.dtype).view(bits))
        for block in _blocks(tensor.detach().reshape(-1))
    )


def _blocks(flat: Tensor) -> Iterator[Tensor]:
    """Parts of a vector, small ones first: of most tensors the first tells."""
    start, length = 0, LEAST
    while start < len(flat):
        yield flat[start : start + length]
        start, length = start + length, min(16 * length, MOST)


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for `torch.float32`; `getattr(torch, name)` is the inverse."""
    return str(dtype).removeprefix("torch.")
