"""A factorization whose columns are in another order: groups of columns that are not neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from lowrank.factorizations.factorization import (
    Dense,
    Factorization,
    Leaf,
    check_forms,
    rebuild,
)
from lowrank.files.fields import Fields


class ReorderedColumns(Leaf):
    """W[:, order[j]] = term[:, j].

    A quantizer that goes through the columns by their importance may give one scale to columns that
    are not neighbours. The order is stored, 16 / out bits for each weight up to 65,536 columns.
    Multiplied as one dense matrix.

    Args:
        term: shape (out, in).
        order: a permutation of the columns, shape (in,), integers.

    Raises:
        ValueError: it is no permutation of the columns of the term.

    Source: Frantar et al., GPTQ, ICLR 2023 (the option ``act-order`` of its code).
    """

    order: Tensor

    def __init__(self, term: Factorization, order: Tensor, notes: tuple[str, ...] = ()) -> None:
        check_forms("the term", [term])
        check_order(order, term.shape[1])
        self._hold(term, order.to(_narrow(term.shape[1])).contiguous(), notes)

    def _hold(self, term: Factorization, order: Tensor, notes: tuple[str, ...] = ()) -> None:
        super().__init__(term.shape, notes)
        self.term = term
        self.register_buffer("order", order)

    def to_dense(self) -> Tensor:
        dense = self.term.to_dense()
        return dense[:, torch.argsort(self.order.to(torch.int64))]

    @property
    def params(self) -> int:
        return self.term.params

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        return ReorderedColumns(self.term.map_dense(function), self.order, self.notes)

    def config(self) -> dict[str, Any]:
        return {"type": "ReorderedColumns", "term": self.term.config()}

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        term = rebuild(config.fields("term"))
        form = cls.__new__(cls)
        form._hold(term, torch.zeros(term.shape[1], dtype=_narrow(term.shape[1])))
        return form

    def check_stored(self) -> None:
        check_order(self.order, self.shape[1])

    def describe(self) -> str:
        return f"{self.term.describe()}, reordered columns"


def _narrow(columns: int) -> torch.dtype:
    return torch.uint16 if columns <= 2**16 else torch.int32


def check_order(order: Tensor, columns: int) -> None:
    """Raise ValueError unless it is a permutation of so many columns."""
    known = torch.arange(columns, device=order.device)
    is_one = tuple(order.shape) == (columns,) and not order.is_floating_point()
    if not is_one or not torch.equal(order.to(torch.int64).sort().values, known):
        raise ValueError(f"the order is no permutation of {columns} columns")
