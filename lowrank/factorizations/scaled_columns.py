"""A factorization with scaled columns: the result of quantizing W diag(s), as AWQ does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from lowrank.factorizations.checks import check_numbers
from lowrank.factorizations.configs import dtype_in
from lowrank.factorizations.factorization import (
    Dense,
    Factorization,
    Leaf,
    check_forms,
    rebuild,
    with_plain_strides,
)
from lowrank.factorizations.quantized import check_scales
from lowrank.factorizations.tunable import Tunable
from lowrank.files.fields import Fields
from lowrank.numerics.storage import dtype_name


class ScaledColumns(Leaf):
    """W = term · diag(scale).

    The scales are stored beside the term, 16 / out bits for each weight if they have 16 bits, and
    kept in their dtype by `to(dtype)`. Multiplied as one dense matrix. Where they could be merged
    into what comes before the layer, such as the weights of a normalisation, that would save them;
    that is a matter of the model, and not done here.

    Args:
        term: shape (out, in).
        scale: shape (in,), in the dtype in which it is stored.

    Raises:
        ValueError: another number of scales than of columns, or scales that are no finite numbers.
    """

    scale: Tensor

    def __init__(self, term: Factorization, scale: Tensor, notes: tuple[str, ...] = ()) -> None:
        check_forms("the term", [term])
        check_numbers("scale", scale)
        if tuple(scale.shape) != (term.shape[1],):
            raise ValueError(
                f"scales of shape {tuple(scale.shape)} do not fit the columns of a term of shape "
                f"{term.shape}, which needs ({term.shape[1]},)"
            )
        super().__init__(term.shape, notes)
        self.term = term
        self.register_buffer("scale", with_plain_strides(scale.detach()))

    def to_dense(self) -> Tensor:
        dense = self.term.to_dense()
        working = torch.promote_types(dense.dtype, torch.float32)
        return (dense.to(working) * self.scale.to(working)).to(dense.dtype)

    @property
    def params(self) -> int:
        return self.term.params

    def tunable(self) -> dict[str, Tunable]:
        return {"scale": Tunable.scales(self.scale)}

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        return ScaledColumns(self.term.map_dense(function), self.scale, self.notes)

    def config(self) -> dict[str, Any]:
        return {
            "type": "ScaledColumns",
            "scale_dtype": dtype_name(self.scale.dtype),
            "term": self.term.config(),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        term = rebuild(config.fields("term"))
        return cls(term, torch.zeros(term.shape[1], dtype=dtype_in(config, "scale_dtype")))

    def check_stored(self) -> None:
        check_scales("scale", self.scale)

    def describe(self) -> str:
        return f"{self.term.describe()}, scaled columns"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # As those of `Quantized`, the scales keep the numbers that the codes were made for.
        dtype = self.scale.dtype
        self.scale = self.scale.view(torch.uint8)
        try:
            return super()._apply(fn, recurse)
        finally:
            self.scale = self.scale.view(dtype)
