"""Sums of any methods: each part in turn approximates what the others leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lowrank.approximation.alternation import Term, alternated
from lowrank.approximation.comparison import error_of
from lowrank.decomposers.decomposer import Decomposer, Unfit
from lowrank.factorizations import Factorization, Sum
from lowrank.factorizations.operations import KernelView
from lowrank.norms import Norm
from lowrank.numerics.checks import check_integer
from lowrank.numerics.memo import MEMO


@dataclass(frozen=True)
class AlternatingSum(Decomposer):
    """W ≈ Ŵ₁ + Ŵ₂ + …, each by a method of its own, by alternation.

    In turn, part i is set to what its method makes of W less the other parts, all of which begin at
    zero. A method that is nearest in the norm (magnitude pruning, the truncated SVD) never makes
    the error larger; others may, so the nearest sum of all passes is returned, and more iterations
    are never worse.

    ``AlternatingSum([CodebookQuantization(1), MagnitudePruning(0.99)])`` is a matrix of two values
    with the 1 % of corrections that it needs most. Another order leads to another local optimum:
    first goes the part that represents most of the weight. It takes the bytes of all its parts,
    runs as all of them one beside the other, and is not compared with one part of the same bytes.
    Where there is a method of its own for a sum, that is nearer or knows more norms:
    `LowRankPlusSparse`, `QuantizedPlusLowRank`.

    Args:
        parts: the methods, the first to act first; at least two. Each approximates in `norm`, which
            it has to know. Kernels of convolutions are seen as the parts ask for; at most one view
            beside ``channel``.
        iterations: passes over the parts, at least 1.

    Raises:
        ValueError: fewer than two parts, something that is no decomposer, parts that see kernels as
            different matrices, or the error of a part, with its number and name.

    Source: Idelbayev & Carreira-Perpiñán, CIKM 2021 (additive combinations); for low rank plus
    sparse Zhou & Tao, ICML 2011.
    """

    parts: Sequence[Decomposer]
    iterations: int = 10

    family: ClassVar[str] = "hybrid"
    # The parts check the norm.
    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)

    def __post_init__(self) -> None:
        are_some = isinstance(self.parts, Sequence) and not isinstance(self.parts, str)
        if not are_some or len(self.parts) < 2:
            raise ValueError(
                f"parts={self.parts!r} of AlternatingSum must be a sequence of at least 2 "
                "decomposers, such as [CodebookQuantization(1), MagnitudePruning(0.99)]"
            )
        # Hydra hands over a list; a frozen dataclass is hashable only if its fields are.
        object.__setattr__(self, "parts", tuple(self.parts))
        for number, part in enumerate(self.parts, start=1):
            if not isinstance(part, Decomposer):
                raise ValueError(f"part {number} of AlternatingSum must be a Decomposer: {part!r}")
        check_integer("iterations", self.iterations, least=1)
        views = sorted(self._views() - {"channel"})
        if len(views) > 1:
            raise ValueError(
                f"the parts of AlternatingSum see kernels as different matrices, {views}: give "
                "them one view"
            )

    def _views(self) -> set[KernelView]:
        return {part.kernel_view() for part in self.parts}

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        for index, part in enumerate(self.parts):
            with self._naming(index):
                part.check_norms(types)

    def kernel_view(self) -> KernelView:
        return max(self._views(), key=lambda view: view != "channel")

    def for_kernel(self, size: tuple[int, ...]) -> Decomposer:
        return AlternatingSum([part.for_kernel(size) for part in self.parts], self.iterations)

    def check_shape(self, weight: Tensor) -> None:
        for index, part in enumerate(self.parts):
            with self._naming(index):
                part.check_shape(weight)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        def term(index: int) -> Term:
            def approximated(rest: Tensor) -> Factorization:
                with self._naming(index):
                    return self.parts[index].approximate(rest.to(weight.dtype), norm)

            return approximated

        terms = [term(index) for index in range(len(self.parts))]
        with MEMO.passing():
            passes = alternated(weight.double(), terms, self.iterations)
            return min(map(_sum, passes), key=lambda form: error_of(weight, norm, form))

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Put the part before the text of a ValueError."""
        part = self.parts[index]
        try:
            yield
        except ValueError as error:
            text = f"part {index + 1} of AlternatingSum, {part}: {error}"
            nearest = error.nearest if isinstance(error, Unfit) else None
            if nearest is None:
                raise ValueError(text) from error
            parts = [*self.parts[:index], nearest, *self.parts[index + 1 :]]
            raise Unfit(text, AlternatingSum(parts, self.iterations)) from error


def _sum(terms: Sequence[Factorization]) -> Sum:
    """With the notes of all terms, each once."""
    return Sum(*terms, notes=tuple(dict.fromkeys(note for term in terms for note in term.notes)))
