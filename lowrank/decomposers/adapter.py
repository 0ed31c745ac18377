"""Adapters: the interface of methods that add a trained part to a frozen weight, and merging."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lowrank.decomposers.decomposer import Decomposer, check_rank, nearest_of
from lowrank.factorizations import Dense, Factorization, Product, Scaled
from lowrank.factorizations.operations import KernelView
from lowrank.factorizations.row_scales import with_kept_factors
from lowrank.norms import IDENTITY, Norm
from lowrank.numerics.checks import check_integer, check_number, check_positive


class Adapter(Decomposer):
    """A method whose factorization holds a frozen part and a small trained one.

    The trained tensors are exactly the parameters that require a gradient. The adapter comes on top
    of the base's bytes; what compresses is the base.
    """

    family: ClassVar[str] = "adapter"
    # The base checks the norm, too.
    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)
    levels: ClassVar[tuple[str, ...]] = ()

    rank: Any

    @abstractmethod
    def at_rank(self, rank: int) -> Self:
        """This method with another rank, the trained part counting as often as now."""

    @abstractmethod
    def trained(self, shape: tuple[int, int]) -> int:
        """Trained numbers of a weight of this shape (out, in)."""

    @property
    def follows_directions(self) -> bool:
        """Whether a further rank lets it follow one more singular direction, of any matrix.

        Not so between random factors, whose ranks have no direction of the weight or gradient.
        """
        return True

    @abstractmethod
    def without(self) -> Decomposer | None:
        """The method of the base alone; None where it is the weight itself."""


class AdapterOverBase(Adapter):
    """An adapter over the frozen form of a method, or over the weight itself."""

    rank: int
    dropout: float
    base: Decomposer | None

    def check_fields(self) -> None:
        """Raise ValueError for a rank, dropout or base that no weight can have."""
        check_integer("rank", self.rank, least=1)
        check_number("dropout", self.dropout, "lie in [0, 1)", lambda x: 0 <= x < 1)
        if self.base is not None and not isinstance(self.base, Decomposer):
            raise ValueError(
                f"base={self.base!r} must be a Decomposer: give an instance such as "
                "Quantization(bits=4)"
            )

    def at_rank(self, rank: int) -> Self:
        return replace(self, rank=rank)  # type: ignore[type-var]

    def without(self) -> Decomposer | None:
        return self.base

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        if self.base is not None:
            self.base.check_norms(types)

    def kernel_view(self) -> KernelView:
        return "channel" if self.base is None else self.base.kernel_view()

    def for_kernel(self, size: tuple[int, ...]) -> Decomposer:
        if self.base is None:
            return self
        return replace(self, base=self.base.for_kernel(size))  # type: ignore[type-var]

    def check_base(self, weight: Tensor) -> None:
        """Raise `Unfit` where the base does not fit a weight of this shape."""
        if self.base is not None:
            with nearest_of(lambda base: replace(self, base=base)):  # type: ignore[type-var]
                self.base.check_shape(weight)

    def frozen(self, weight: Tensor, norm: Norm) -> Factorization:
        """The form of the part of W that is not trained."""
        if self.base is None:
            return Dense(weight.clone()).requires_grad_(False)
        return self.base.decompose(weight, norm).requires_grad_(False)


class LowRankAdapter(AdapterOverBase):
    """An adapter whose trained part counts alpha/rank times and has the rank of its name."""

    alpha: float

    def check_fields(self) -> None:
        super().check_fields()
        check_positive("alpha", self.alpha)

    def check_shape(self, weight: Tensor) -> None:
        check_rank(self.rank, weight)
        self.check_base(weight)

    @property
    def scale(self) -> float:
        """The factor of the trained part."""
        return self.alpha / self.rank

    def at_rank(self, rank: int) -> Self:
        other = super().at_rank(rank)
        return replace(other, alpha=other.alpha * self.scale / other.scale)  # type: ignore[type-var]

    def scaled(self, *factors: Factorization) -> Scaled:
        """The product of the factors, or the one factor, as it is added to the base."""
        term = factors[0] if len(factors) == 1 else Product(*factors)
        return Scaled(term, self.scale, self.dropout)


def frozen_dense(matrix: Tensor, like: Tensor) -> Dense:
    """A matrix that is not trained, in the dtype of a weight."""
    return Dense(matrix.to(like.dtype)).requires_grad_(False)


def notes_of(forms: Iterable[Factorization], *further: str) -> tuple[str, ...]:
    """The notes of several forms, and further ones."""
    return (*(note for form in forms for note in form.notes), *further)


def merge(factorization: Factorization) -> Dense:
    """One dense matrix that gives the outputs of `factorization`, such as of a trained LoRA.

    Computed in float32 at least and rounded once to the factorization's dtype; a note says what
    that rounding changes. The base's compression is given up: quantize or prune again if its size
    is to be kept. Dropout has no part in it, as at evaluation.
    """
    with torch.no_grad():
        dtype = factorization.to_dense().dtype
        kept = with_kept_factors(copy.deepcopy(factorization))
        precise: Any = kept.to(torch.promote_types(dtype, torch.float32))
        exact = precise.to_dense()
        merged = exact.to(dtype, copy=True)
    error = IDENTITY.relative_error(exact, merged)
    how = f"merged from {factorization.describe()}, relative error {error:.2g}"
    return Dense(merged, notes=(*factorization.notes, how))
