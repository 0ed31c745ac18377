"""Products, sums and scalings of factorizations, which are factorizations again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.factorizations.factorization import (
    MULTIPLY,
    Dense,
    Factorization,
    check_forms,
    rebuild,
)
from lowrank.factorizations.operations import Operation
from lowrank.files.fields import Fields

# Above it, zero times the scale is NaN.
LARGEST_SCALE = torch.finfo(torch.float32).max


class Product(Factorization):
    """W = factors[0] @ factors[1] @ …, applied factor by factor and never multiplied out.

    Two dense factors (out, r) and (r, in) are a low-rank matrix: r·(out + in) parameters instead of
    out·in, so smaller only for r < out·in / (out + in).

    Raises:
        ValueError: fewer than two factors, something that is none, or inner dimensions that do not
            agree.
    """

    def __init__(self, *factors: Factorization, notes: tuple[str, ...] = ()) -> None:
        if len(factors) < 2:
            raise ValueError(f"a product needs at least 2 factors, got {len(factors)}")
        check_forms("a factor", factors)
        for left, right in zip(factors, factors[1:], strict=False):
            if left.shape[1] != right.shape[0]:
                shapes = " @ ".join(str(f.shape) for f in factors)
                raise ValueError(f"inner dimensions do not agree in the product {shapes}")
        super().__init__((factors[0].shape[0], factors[-1].shape[1]), notes)
        self.factors = nn.ModuleList(factors)

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        *steps, (last, step) = operation.order(list(self.factors))
        for factor, before in steps:
            x = factor(x, before)
        return last(x, step, bias)

    def to_dense(self) -> Tensor:
        first, *rest = (factor.to_dense() for factor in _parts(self.factors))
        for matrix in rest:
            first = first @ matrix
        return first

    def multiplied_out(self, operation: Operation) -> bool:
        steps = operation.order(_parts(self.factors))
        return any(factor.multiplied_out(step) for factor, step in steps)

    def left_factor(self) -> Factorization:
        return _parts(self.factors)[0]

    @property
    def params(self) -> int:
        return sum(factor.params for factor in _parts(self.factors))

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        return Product(*(f.map_dense(function) for f in _parts(self.factors)), notes=self.notes)

    def config(self) -> dict[str, Any]:
        return {"type": "Product", "factors": [f.config() for f in _parts(self.factors)]}

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        return cls(*map(rebuild, config.each("factors")))

    def describe(self) -> str:
        factors = _parts(self.factors)
        if all(isinstance(factor, Dense) for factor in factors):
            sizes = [self.shape[1], *(factor.shape[0] for factor in reversed(factors))]
            return "LowRank " + "→".join(map(str, sizes))
        return f"Product({', '.join(factor.describe() for factor in factors)})"


class Sum(Factorization):
    """W = terms[0] + terms[1] + …, each applied in its own form.

    Raises:
        ValueError: fewer than two terms, something that is none, or shapes that differ.
    """

    def __init__(self, *terms: Factorization, notes: tuple[str, ...] = ()) -> None:
        if len(terms) < 2:
            raise ValueError(f"a sum needs at least 2 terms, got {len(terms)}")
        check_forms("a term", terms)
        if len({term.shape for term in terms}) > 1:
            raise ValueError(f"the terms of a sum differ in shape: {[t.shape for t in terms]}")
        super().__init__(terms[0].shape, notes)
        self.terms = nn.ModuleList(terms)

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        first, *rest = self.terms
        y = first(x, operation, bias)
        for term in rest:
            y = y + term(x, operation)
        return y

    def to_dense(self) -> Tensor:
        first, *rest = (term.to_dense() for term in _parts(self.terms))
        for matrix in rest:
            first = first + matrix
        return first

    def multiplied_out(self, operation: Operation) -> bool:
        return any(term.multiplied_out(operation) for term in _parts(self.terms))

    @property
    def params(self) -> int:
        return sum(term.params for term in _parts(self.terms))

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        return Sum(*(term.map_dense(function) for term in _parts(self.terms)), notes=self.notes)

    def config(self) -> dict[str, Any]:
        return {"type": "Sum", "terms": [term.config() for term in _parts(self.terms)]}

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        return cls(*map(rebuild, config.each("terms")))

    def describe(self) -> str:
        return f"Sum({', '.join(term.describe() for term in _parts(self.terms))})"


class Scaled(Factorization):
    """W = scale · term, with dropout on the input while training: the branch that LoRA adds.

    The scale is a constant of the form (LoRA's alpha/rank), not a learned value, and so is kept in
    `config`. At evaluation dropout does nothing.

    Raises:
        ValueError: dropout outside [0, 1), a scale that is not finite, or a term that is none.
    """

    adapts: ClassVar[bool] = True

    def __init__(
        self, term: Factorization, scale: float, dropout: float = 0.0, notes: tuple[str, ...] = ()
    ) -> None:
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must lie in [0, 1)")
        if not abs(scale) <= LARGEST_SCALE:
            raise ValueError(f"scale={scale} must be finite in float32")
        check_forms("the term", [term])
        super().__init__(term.shape, notes)
        self.term = term
        self.scale = float(scale)
        self.dropout = float(dropout)

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        return operation.add_bias(self.term(self.dropped(x), operation) * self.scale, bias)

    def dropped(self, x: Tensor) -> Tensor:
        """The inputs after dropout."""
        # The indices that an embedding looks up cannot be dropped.
        return F.dropout(x, self.dropout, self.training) if x.is_floating_point() else x

    def to_dense(self) -> Tensor:
        return self.term.to_dense() * self.scale

    def multiplied_out(self, operation: Operation) -> bool:
        return self.term.multiplied_out(operation)

    @property
    def params(self) -> int:
        return self.term.params

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        return Scaled(self.term.map_dense(function), self.scale, self.dropout, notes=self.notes)

    def config(self) -> dict[str, Any]:
        return {
            "type": "Scaled",
            "scale": self.scale,
            "dropout": self.dropout,
            "term": self.term.config(),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        term = rebuild(config.fields("term"))
        return cls(term, config.number("scale"), config.number("dropout", 0, 1))

    def describe(self) -> str:
        dropped = f" with dropout {self.dropout:g}" if self.dropout else ""
        return f"{self.scale:g}·{self.term.describe()}{dropped}"


def _parts(modules: nn.ModuleList) -> list[Factorization]:
    """The members of a list, for the type checker as what they are."""
    return list(modules)  # type: ignore[arg-type]
