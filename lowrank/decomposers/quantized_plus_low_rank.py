"""Quantized plus low rank: a coarse base, and a low-rank product that compensates its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.approximation.alternation import alternated
from lowrank.approximation.comparison import better_of, error_of
from lowrank.approximation.low_rank import nearest
from lowrank.decomposers.decomposer import Decomposer, check_rank
from lowrank.decomposers.gptq import GPTQ
from lowrank.decomposers.half_precision import HalfPrecision
from lowrank.factorizations import Factorization, Product, Sum
from lowrank.factorizations.packing import BITS
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import check_integer
from lowrank.numerics.factors import beyond_rounding, fitted
from lowrank.numerics.memo import MEMO

HALF = 16


@dataclass(frozen=True)
class QuantizedPlusLowRank(Decomposer):
    """W ≈ Q + left @ right with Q quantized, and left and right in few bits too, by alternation.

    In turn, Q is set to `base` of W − left @ right, and left @ right to the nearest matrix of its
    rank to W − Q, both in the norm. Rounding makes this non-monotone, so the nearest of all
    iterates is returned, and more iterations are never worse. Both orders are tried: the base
    first, so that the product compensates its errors (LoftQ, CALDERA), and the product first, so
    that the base has less to represent.

    The factors are rounded one after the other, each in the norm that the weight's norm induces on
    it: right in the norm of the inputs; then left, fitted anew to the rounded right, in the norm of
    right's outputs. Each row of right has one scale, and left has one.

    It is compared in the norm with plain quantization at the same bytes: `base` itself with the two
    largest numbers of bits that fit, each in the smallest groups that fit. If that is nearer, it is
    returned with a note.

    Pays as a step between two numbers of bits, most at 1 to 3 bits and where the whitened weight
    has a decaying spectrum. In the full norm of MiniLM at 2.4 to 2.8 bits for each weight the error
    is 4 to 16 % below that of smaller groups, in that of stories260K at 2.3 to 3.6 bits 5 to 35 %;
    where one more bit for all weights fits, that is better. 4 bits for the factors buy twice the
    rank of 8 and are nearer; the product runs beside a base multiplied as dense, so it saves bytes
    and no time.

    Args:
        rank: of the product, 1 ≤ rank ≤ min(out, in).
        base: the method of Q.
        factor_bits: of the factors, 1..8, or 16 for float16.
        iterations: of each of the two orders, at least 1; each costs a `base` and an SVD.

    Raises:
        ValueError: `rank` does not fit the shape, or as `base`.

    Source: Li et al., ICLR 2024, algorithm 1 (LoftQ); Saha et al., NeurIPS 2024, algorithms 1 and 2
    (CALDERA: the norm of the data, quantized factors).
    """

    rank: int
    base: GPTQ
    factor_bits: int = 4
    iterations: int = 5

    family: ClassVar[str] = "hybrid"
    norms: ClassVar[tuple[type[Norm], ...]] = (Identity, Diagonal, Full)

    def __post_init__(self) -> None:
        check_integer("rank", self.rank, least=1)
        check_integer("iterations", self.iterations, least=1)
        if not isinstance(self.base, GPTQ):
            raise ValueError(f"base={self.base!r} must be a GPTQ, such as GPTQ(bits=3)")
        is_integer = isinstance(self.factor_bits, int) and not isinstance(self.factor_bits, bool)
        if not is_integer or self.factor_bits not in (*BITS, HALF):
            raise ValueError(f"factor_bits={self.factor_bits!r} must lie in 1..8, or be {HALF}")

    def check_shape(self, weight: Tensor) -> None:
        check_rank(self.rank, weight)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        if not bool(weight.any()):
            return self.base.decompose(weight, norm)
        left, right, _ = nearest(weight.double(), self.rank, norm)
        with MEMO.passing():
            forms = [
                form
                for low_rank in (torch.zeros_like(weight.double()), left @ right)
                for form in self._alternate(weight, norm, low_rank)
            ]
        hybrid = min(forms, key=lambda form: error_of(weight, norm, form))
        plain = self.base.within(weight, norm, hybrid.nbytes)
        return better_of(weight, norm, hybrid, *plain)

    def _alternate(self, weight: Tensor, norm: Norm, low_rank: Tensor) -> list[Factorization]:
        """Every iterate, beginning with the base of what `low_rank` (out, in) leaves."""

        def base(rest: Tensor) -> Factorization:
            return self.base.decompose(beyond_rounding(rest, weight), norm).to(weight.dtype)

        def product(missed: Tensor) -> Factorization | None:
            is_more = bool(beyond_rounding(missed, weight).any())
            return self._product(missed, norm).to(weight.dtype) if is_more else None

        exact = weight.double()
        start = [torch.zeros_like(exact), low_rank]
        passes = alternated(exact, [base, product], self.iterations, start)
        return [Sum(*terms, notes=terms[0].notes) if terms[1:] else terms[0] for terms in passes]

    def _product(self, target: Tensor, norm: Norm) -> Factorization:
        """The product of rounded factors nearest to a target (out, in) that is not zero."""
        left, right, _ = nearest(target, self.rank, norm)
        # Columns of left of equal length: one scale serves them all, those of right take the rest.
        lengths = left.norm(dim=0)
        left, right = left / lengths.where(lengths > 0, 1), right * lengths[:, None]
        rows, moment = norm.row_weights(target).expand(len(target)), norm.second_moment(target)
        seen = rows @ left.square()
        right = self._rounded(right, Full(moment, seen), "channel")
        exact = right.to_dense().double()
        left = fitted(target, moment, exact)
        return Product(self._rounded(left, Full(exact @ moment @ exact.T, rows), "tensor"), right)

    def _rounded(self, factor: Tensor, norm: Norm, group_size: str) -> Factorization:
        if self.factor_bits == HALF:
            return HalfPrecision().decompose(factor)
        method = GPTQ(self.factor_bits, group_size, scale_dtype=self.base.scale_dtype)
        return method.decompose(factor, norm)
