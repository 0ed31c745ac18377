"""An adapted weight taken apart: its frozen base, and the low-rank terms beside it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowrank.factorizations.combinations import Product, Scaled, Sum
from lowrank.factorizations.factorization import Factorization, adapters
from lowrank.factorizations.row_scales import NormalizedRows


@dataclass(frozen=True)
class Adapted:
    """The parts of an adapted weight.

    Attributes:
        base: the frozen one.
        terms: products, perhaps scaled, that are added to it.
        lengths: (out,) those that the rows of the sum are given, if they are trained apart (DoRA).
    """

    base: Factorization
    terms: tuple[Factorization, ...]
    lengths: Tensor | None = None


@dataclass(frozen=True)
class LowRankTerm:
    """scale · left @ right, with left (out, rank) and right (rank, in), detached.

    Attributes:
        dropout: share of its inputs that is dropped in training.
    """

    left: Tensor
    right: Tensor
    scale: float = 1.0
    dropout: float = 0.0

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.right.shape[0]


def taken_apart(form: Factorization) -> Adapted:
    """The parts of an adapted weight.

    The base is the one term of a sum that is no product; of a sum of products alone, the one that
    is frozen, or else the one that has no scale. Of a product that has such a sum for a factor, the
    parts are those of the sum, times the other factors.

    Raises:
        ValueError: it is no such sum, or its base is trained; the text says what it is instead.
    """
    if isinstance(form, NormalizedRows):
        parts = taken_apart(form.term)
        if parts.lengths is not None:
            raise ValueError(f"it is {form.describe()}, whose rows are given lengths twice")
        return replace(parts, lengths=form.lengths.detach())
    what, terms = form.describe(), _summands(form)
    if len(terms) < 2:
        raise ValueError(f"it is {what}, and no base with a low-rank adapter beside it")
    full = [term for term in terms if not isinstance(_unscaled(term)[2], Product)]
    choices = (list(filter(_is_frozen, terms)), [term for term in terms if not _is_scaled(term)])
    found = full or next((one for one in choices if len(one) == 1), [])
    if len(found) != 1:
        raise ValueError(
            f"it is {what}, of whose terms {len(full)} have full rank, and the base is to be the "
            "one that has, or the one that is frozen"
        )
    (base,) = found
    if not _is_frozen(base):
        raise ValueError(
            f"it is {what}, and its base, {base.describe()}, is trained: a base is frozen, as by "
            "requires_grad_(False)"
        )
    return Adapted(base, tuple(term for term in terms if term is not base))


def together(parts: Adapted, notes: tuple[str, ...] = ()) -> Factorization:
    """The adapted weight that has these parts."""
    if parts.lengths is None:
        return Sum(parts.base, *parts.terms, notes=notes)
    return NormalizedRows(Sum(parts.base, *parts.terms), parts.lengths, notes)


def low_rank(terms: Sequence[Factorization]) -> LowRankTerm:
    """The sum of terms as one, of no higher rank than theirs together.

    A term of two factors alone is given as it is, to the bit; one of more is multiplied out at its
    narrowest place.

    Raises:
        ValueError: dropout that differs.
    """
    return joined([_of(term) for term in terms])


def joined(terms: Sequence[LowRankTerm]) -> LowRankTerm:
    """One term that equals the sum of several.

    Raises:
        ValueError: dropout that differs.
    """
    first, *others = terms
    if any(term.dropout != first.dropout for term in others):
        raise ValueError(
            f"its terms have dropout {sorted({t.dropout for t in terms})}, and not one"
        )
    if not others:
        return first
    left = torch.cat([first.left, *(t.scale / first.scale * t.left for t in others)], dim=1)
    right = torch.cat([first.right, *(term.right for term in others)])
    return LowRankTerm(left, right, first.scale, first.dropout)


def _of(term: Factorization) -> LowRankTerm:
    scale, dropout, product = _unscaled(term)
    assert isinstance(product, Product)
    factors = [_unscaled(factor) for factor in product.factors]  # type: ignore[arg-type]
    if any(drop for _, drop, _ in factors[:-1]):
        raise ValueError("dropout acts between its factors, and not on the inputs of the layer")
    for other, drop, _ in factors:
        scale, dropout = scale * other, dropout + drop - dropout * drop
    with torch.no_grad():
        matrices = [factor.to_dense().detach() for _, _, factor in factors]
    cut = min(range(1, len(matrices)), key=lambda place: matrices[place].shape[0])
    return LowRankTerm(_product(matrices[:cut]), _product(matrices[cut:]), scale, dropout)


def _unscaled(term: Factorization) -> tuple[float, float, Factorization]:
    """Scale, dropout, and what they act on."""
    scale, dropout = 1.0, 0.0
    while isinstance(term, Scaled):
        scale *= term.scale
        dropout = dropout + term.dropout - dropout * term.dropout
        term = term.term
    return scale, dropout, term


def _product(matrices: list[Tensor]) -> Tensor:
    """Their product, computed in float64 where there is more than one."""
    if len(matrices) == 1:
        return matrices[0]
    exact = functools.reduce(torch.matmul, (matrix.double() for matrix in matrices))
    return exact.to(matrices[0].dtype)


def _summands(form: Factorization) -> list[Factorization]:
    """The terms of a sum, or of a product with one, multiplied into them; else the form itself."""
    if isinstance(form, Sum):
        return list(form.terms)  # type: ignore[arg-type]
    factors: list[Any] = list(form.factors) if isinstance(form, Product) else []
    for place, factor in enumerate(factors):
        if isinstance(factor, Sum):
            before, after = factors[:place], factors[place + 1 :]
            return [Product(*before, term, *after) for term in _summands(factor)]
    return [form]


def _is_scaled(term: Factorization) -> bool:
    """Whether it, or a factor of it, has a scale."""
    return any(isinstance(part, Scaled) for part in term.modules())


def _is_frozen(term: Factorization) -> bool:
    return not any(parameter.requires_grad for parameter in term.parameters())


def frozen_parts(form: Factorization) -> list[Factorization]:
    """The parts of a form that are beside its adapters, such as a frozen base; none without one."""
    if not any(part is not form for part in adapters(form)):
        return []
    found: list[Factorization] = []
    waiting = list(form.children())
    while waiting:
        part = waiting.pop(0)
        if not isinstance(part, Factorization):  # A list of parts.
            waiting = [*part.children(), *waiting]
        elif adapters(part):
            found += frozen_parts(part)
        else:
            found.append(part)
    return found
