"""A matrix whose values are stored in 16 bits."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from lowrank.factorizations.coded import Coded
from lowrank.factorizations.configs import dtype_in, shape_in
from lowrank.factorizations.tracing import untraced
from lowrank.files.fields import Fields
from lowrank.numerics.storage import dtype_name


class Half(Coded):
    """W itself, in 16 bits a value, computed with in W's own dtype.

    Multiplied as a dense matrix, so it saves bytes, not time; it cannot be trained. `to(dtype)`
    changes the dtype of W alone, never the stored values.

    Args:
        values: shape (out, in), float16 or bfloat16.
        dtype: of W.

    Raises:
        ValueError: values that are not a matrix of 16 bits.
    """

    stored: Tensor

    def __init__(self, values: Tensor, dtype: torch.dtype = torch.float32) -> None:
        if values.ndim != 2 or values.dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"Half needs a matrix of float16 or bfloat16, not {tuple(values.shape)} of "
                f"{values.dtype}"
            )
        super().__init__((values.shape[0], values.shape[1]))
        self.stored_dtype = values.dtype
        # Held as integers of the same bits, so that `to(dtype)` does not round them.
        self.register_buffer("stored", values.detach().contiguous().view(torch.int16).clone())
        self._keep_dtype(dtype, values.device)

    def to_dense(self) -> Tensor:
        with untraced():
            return self.stored.view(self.stored_dtype).to(self._as_dtype.dtype, copy=True)

    def config(self) -> dict[str, Any]:
        return {
            "type": "Half",
            "shape": list(self.shape),
            "stored_dtype": dtype_name(self.stored_dtype),
            "dtype": dtype_name(self._as_dtype.dtype),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        values = torch.zeros(shape_in(config), dtype=dtype_in(config, "stored_dtype"))
        return cls(values, dtype_in(config, "dtype"))

    def describe(self) -> str:
        return f"Half {self.shape[1]}→{self.shape[0]}, {dtype_name(self.stored_dtype)}"
