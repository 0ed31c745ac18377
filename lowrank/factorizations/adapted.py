"""An adapted weight taken apart: its frozen base, and the low-rank terms beside it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.factorizations.combinations import Product, Scaled, Sum
from lowrank.factorizations.factorization import Factorization


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
    is frozen, or else the one that has no scale.

    Raises:
        ValueError: it is no such sum, or its base is trained; the text says what it is instead.
    """
    what = form.describe()
    if not isinstance(form, Sum):
        raise ValueError(f"it is {what}, and no base with a low-rank adapter beside it")
    terms: list[Factorization] = list(form.terms)  # type: ignore[arg-type]
    full = [term for term in terms if not isinstance(_bare(term), Product)]
    choices = (list(filter(_is_frozen, terms)), [term for term in terms if term is _bare(term)])
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
    return Sum(parts.base, *parts.terms, notes=notes)


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
    scale, dropout = 1.0, 0.0
    while isinstance(term, Scaled):
        scale *= term.scale
        dropout = dropout + term.dropout - dropout * term.dropout
        term = term.term
    assert isinstance(term, Product)
    with torch.no_grad():
        matrices = [factor.to_dense().detach() for factor in term.factors]  # type: ignore[operator]
    cut = min(range(1, len(matrices)), key=lambda place: matrices[place].shape[0])
    return LowRankTerm(_product(matrices[:cut]), _product(matrices[cut:]), scale, dropout)


def _product(matrices: list[Tensor]) -> Tensor:
    """Their product, computed in float64 where there is more than one."""
    if len(matrices) == 1:
        return matrices[0]
    exact = functools.reduce(torch.matmul, (matrix.double() for matrix in matrices))
    return exact.to(matrices[0].dtype)


def _bare(term: Factorization) -> Factorization:
    while isinstance(term, Scaled):
        term = term.term
    return term


def _is_frozen(term: Factorization) -> bool:
    return not any(parameter.requires_grad for parameter in term.parameters())
