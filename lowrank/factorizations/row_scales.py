"""Factorizations with trained factors of their rows: scales of frozen rows, and their lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lowrank.factorizations.autocasting import without_autocast
from lowrank.factorizations.checks import check_floating
from lowrank.factorizations.combinations import Product, Scaled, Sum
from lowrank.factorizations.configs import dtype_in
from lowrank.factorizations.factorization import (
    MULTIPLY,
    Dense,
    Factorization,
    Leaf,
    check_forms,
    rebuild,
    with_plain_strides,
)
from lowrank.factorizations.keeping import Keeping
from lowrank.factorizations.operations import Operation
from lowrank.files.fields import Fields
from lowrank.numerics.storage import dtype_name


class _TrainedRows(Factorization):
    """A term, and one trained number for each of its rows, in the parameter that `numbers` names.

    Args:
        term: shape (out, in).
        values: the numbers, shape (out,), any floating dtype.
    """

    numbers: ClassVar[str]

    def __init__(self, term: Factorization, values: Tensor, notes: tuple[str, ...] = ()) -> None:
        check_forms("the term", [term])
        check_rows(self.numbers, values, term)
        super().__init__(term.shape, notes)
        self.term = term
        self.register_parameter(self.numbers, nn.Parameter(with_plain_strides(values.detach())))

    @property
    def params(self) -> int:
        return self.term.params + self._trained.numel()

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        other = type(self)(self.term.map_dense(function), self._trained, self.notes)
        other._trained.requires_grad_(self._trained.requires_grad)
        return other

    def config(self) -> dict[str, Any]:
        return {
            "type": type(self).__name__,
            f"{self.numbers}_dtype": dtype_name(self._trained.dtype),
            "term": self.term.config(),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        term = rebuild(config.fields("term"))
        return cls(term, torch.zeros(term.shape[0], dtype=dtype_in(config, f"{cls.numbers}_dtype")))

    @property
    def _trained(self) -> nn.Parameter:
        return self.get_parameter(self.numbers)


class ScaledRows(_TrainedRows):
    """W = diag(scale) · term, the scales trained. Multiplied as one dense matrix.

    Args:
        term: shape (out, in).
        values: the scales, shape (out,), any floating dtype.

    Raises:
        ValueError: a term that is none, or scales that are not one number for each row.
    """

    numbers: ClassVar[str] = "scale"
    scale: nn.Parameter

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        return operation.apply(x, self.to_dense(), bias)

    def to_dense(self) -> Tensor:
        return dense_of(self.term) * self.scale[:, None]

    def multiplied_out(self, operation: Operation) -> bool:
        return self.term.multiplied_out(operation)

    def describe(self) -> str:
        return f"{self.term.describe()}, scaled rows"


class NormalizedRows(Keeping, _TrainedRows):
    """W = diag(lengths / ‖rows of the term‖) · term: rows of trained lengths, directed by a term.

    The term may be trained too; the norms of its rows are constants in the gradient. Every call of
    a training multiplies it out to know them; else their factors are kept. A row of zeros stays
    zero. The outputs of the term, dropout
    included, are multiplied by the factors of their rows, so that no digits are lost where a term
    has grown long.

    Args:
        term: shape (out, in).
        values: the lengths of the rows, shape (out,), any floating dtype.

    Raises:
        ValueError: a term that is none, or lengths that are not one number for each row.
    """

    adapts: ClassVar[bool] = True
    numbers: ClassVar[str] = "lengths"
    lengths: nn.Parameter

    @classmethod
    def of(cls, term: Factorization, notes: tuple[str, ...] = ()) -> Self:
        """The form that equals its term, bit for bit."""
        with torch.no_grad():
            matrix = term.to_dense()
            form = cls(term, matrix.new_zeros(term.shape[0]), notes)
            form.lengths.copy_(form._norms(matrix))
        return form

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        factors = self.derived()
        of_outputs = operation.row_factors(x, factors)
        if of_outputs is None:
            return _with_factors(self.term, factors, x, operation, bias)
        if bias is None:
            y = self.term(x, operation)
            # Under autocast the factors are more precise than the outputs.
            return (y * of_outputs).to(y.dtype)
        # Rows that keep their length get the bias as in the term alone, to the bit; those of others
        # must not be multiplied, which for large factors would lose the digits of the bias.
        inside = bias.where(factors == 1, 0)
        y = self.term(x, operation, inside)
        return operation.add_bias(y * of_outputs, bias - inside * factors).to(y.dtype)

    def derive(self) -> Tensor:
        """The factors of the rows."""
        # The lengths are those of the term in its own precision.
        with without_autocast(self.lengths):
            return self._factors(dense_of(self.term))

    def to_dense(self) -> Tensor:
        matrix = self.term.to_dense()
        return matrix * self._factors(matrix)[:, None]

    def as_scaled(self) -> ScaledRows:
        """The form with its factors as they are, which no longer follow the term."""
        with torch.no_grad():
            return ScaledRows(self.term, self._factors(dense_of(self.term)), self.notes)

    def multiplied_out(self, operation: Operation) -> bool:
        return self.term.multiplied_out(operation)

    def describe(self) -> str:
        return f"{self.term.describe()}, rows of trained length"

    def _factors(self, matrix: Tensor) -> Tensor:
        """By what each row of the term, multiplied out, is multiplied."""
        norms = self._norms(matrix)
        return self.lengths / norms.where(norms > 0, 1)

    def _norms(self, matrix: Tensor) -> Tensor:
        """Those of the rows, as constants, rounded as the lengths are."""
        rows = matrix.detach().contiguous()
        # In float32 the squares of numbers of float32 can underflow.
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        return norms.to(self.lengths.dtype)


def _with_factors(
    form: Factorization, factors: Tensor, x: Tensor, operation: Operation, bias: Tensor | None
) -> Tensor:
    """An operation by a form whose rows are multiplied by factors, each part in its own form."""
    if isinstance(form, Sum):
        first, *rest = (
            _with_factors(term, factors, x, operation, None if place else bias)  # type: ignore[arg-type]
            for place, term in enumerate(form.terms)
        )
        return sum(rest, first)
    if isinstance(form, Scaled):
        y = _with_factors(form.term, factors, form.dropped(x), operation, None)
        return operation.add_bias(y * form.scale, bias)
    if isinstance(form, Product):
        steps = operation.order(list(enumerate(form.factors)))
        for done, ((place, part), step) in enumerate(steps, start=1):
            own = bias if done == len(steps) else None
            x = part(x, step, own) if place else _with_factors(part, factors, x, step, own)  # type: ignore[arg-type]
        return x
    return operation.apply(x, dense_of(form) * factors[:, None], bias)


def with_kept_factors(form: nn.Module) -> nn.Module:
    """A form, changed in place, whose rows keep the factors that they have in its own dtype.

    In another dtype the norms of rows would be rounded otherwise than its lengths were.
    """
    for name, part in form.named_children():
        form.add_module(name, with_kept_factors(part))
    return form.as_scaled() if isinstance(form, NormalizedRows) else form


def dense_of(form: Factorization) -> Tensor:
    """A form as one matrix; a leaf keeps its own between calls, such as that of a frozen base."""
    if isinstance(form, Sum):
        first, *rest = (dense_of(term) for term in form.terms)  # type: ignore[arg-type]
        return sum(rest, first)
    return form.derived() if isinstance(form, Leaf) else form.to_dense()


def check_rows(name: str, values: Tensor, term: Factorization) -> None:
    """Raise ValueError unless there is one floating-point number for each row of a term."""
    check_floating(name, values)
    if tuple(values.shape) != (term.shape[0],):
        raise ValueError(
            f"{name} of shape {tuple(values.shape)} does not fit the rows of a term of shape "
            f"{term.shape}, which needs ({term.shape[0]},)"
        )
