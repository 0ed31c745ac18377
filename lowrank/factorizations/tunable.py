"""Buffers of a factorization that can be tuned though they are no parameters: scales and codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tunable:
    """The content of a buffer as numbers to be tuned; the size of the buffer does not change.

    Args:
        part: ``scales`` (with real zero points) or ``codes``.
        numbers: in float32 at least; codes one by one.
        rounded: the nearest numbers that can be stored.
        stored: the content of the buffer for rounded numbers.
        limits: the least and the largest number.
    """

    part: Literal["scales", "codes"]
    numbers: Tensor
    rounded: Callable[[Tensor], Tensor]
    stored: Callable[[Tensor], Tensor]
    limits: tuple[float, float] = (-math.inf, math.inf)

    @classmethod
    def scales(cls, buffer: Tensor) -> Self:
        """Of a buffer of real numbers."""
        dtype, working = buffer.dtype, torch.promote_types(buffer.dtype, torch.float32)
        return cls(
            "scales",
            buffer.detach().to(working),
            rounded=lambda numbers: numbers.to(dtype).to(working),
            stored=lambda numbers: numbers.to(dtype),
        )
