"""The tensors of a model as GGUF holds them: in the blocks of their codes, or as floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowrank.export.formats.gguf_blocks import in_blocks, with_own_minimum
from lowrank.factorizations import Dense, Factorization, Half, Quantized, ScaledLevels
from lowrank.numerics.storage import dtype_name
from lowrank.reading.gguf_blocks import BLOCK, GgufBlocks

# The name of a floating dtype in GGUF → that in torch.
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
KINDS = {dtype_name(dtype): kind for kind, dtype in FLOATS.items()}


@dataclass(frozen=True)
class HeldTensor:
    """A matrix or vector as GGUF holds it.

    Attributes:
        kind: the name of its type in GGUF.
        to_bytes: makes its bytes, those of each row along the last axis.
        why_dense: why it loses its compressed form.
        dtype: of which it was, if it is rounded to another; None for the same numbers.
    """

    kind: str
    nbytes: int
    to_bytes: Callable[[], np.ndarray]
    why_dense: str = ""
    dtype: torch.dtype | None = None


def held_floats(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    kind: str,
    read: Callable[[], Tensor],
    why_dense: str = "",
) -> HeldTensor:
    """Numbers in a floating type of GGUF.

    Args:
        dtype: of the numbers.
        read: makes them.
    """
    stored = FLOATS[kind]
    is_same = torch.promote_types(dtype, stored) == stored
    nbytes = math.prod(shape) * stored.itemsize
    rounded = None if is_same else dtype
    return HeldTensor(kind, nbytes, lambda: _as_bytes(read(), stored), why_dense, rounded)


def _as_bytes(values: Tensor, dtype: torch.dtype) -> np.ndarray:
    values = values.detach().cpu()
    stored = values.to(dtype).contiguous()
    lost = int((values.isfinite() & ~stored.isfinite()).sum())
    if lost:
        raise ValueError(
            f"{lost} of {values.numel()} numbers are beyond {dtype}, whose largest is "
            f"{torch.finfo(dtype).max:g}: give dtype='bfloat16' or 'float32'"
        )
    return stored.view(torch.uint8).numpy()


def held_form(form: Factorization, kind: str) -> HeldTensor:
    """A factorization, in its own form where GGUF has it.

    Args:
        kind: the floating type of what is multiplied out.
    """
    own = HOLDERS.get(type(form))
    held = "it has no such form" if own is None else own(form, kind)
    if isinstance(held, str):
        return held_floats(form.shape, form.dtype, kind, form.to_dense, held)
    return held


def _quantized(form: Quantized, kind: str) -> HeldTensor | str:
    return _in_blocks(lambda: in_blocks(form))


def _levels(form: ScaledLevels, kind: str) -> HeldTensor | str:
    return _in_blocks(lambda: with_own_minimum(form))


def _in_blocks(make: Callable[[], GgufBlocks | str]) -> HeldTensor | str:
    blocks = make()
    if isinstance(blocks, str):
        return blocks
    nbytes = blocks.codes.numel() // BLOCK * blocks.type.nbytes
    # Made again when they are written, since all layers together may not fit in memory.
    return HeldTensor(blocks.type.name, nbytes, lambda: make().to_bytes())  # type: ignore[union-attr]


def _half(form: Half, kind: str) -> HeldTensor:
    own = form.stored_dtype
    return held_floats(form.shape, own, KINDS[dtype_name(own)], form.to_dense)


def _dense(form: Dense, kind: str) -> HeldTensor:
    return held_floats(form.shape, form.dtype, kind, form.to_dense)


# What GGUF has a form for, by the class of the factorization.
HOLDERS: dict[type[Factorization], Callable[..., HeldTensor | str]] = {
    Dense: _dense,
    Half: _half,
    Quantized: _quantized,
    ScaledLevels: _levels,
}
