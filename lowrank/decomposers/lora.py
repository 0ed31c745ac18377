"""Low-rank adaptation: a frozen base and a small trainable product beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowrank.approximation.low_rank import nearest
from lowrank.decomposers.decomposer import Decomposer, Unfit, check_rank, generator_for, nearest_of
from lowrank.factorizations import Dense, Factorization, Product, Scaled, Sum
from lowrank.factorizations.operations import KernelView
from lowrank.norms import IDENTITY, Norm
from lowrank.numerics.checks import (
    check_integer,
    check_number,
    check_one_of,
    check_positive,
)
from lowrank.numerics.factors import beyond_rounding
from lowrank.numerics.precision import working

Start = tuple[Factorization, Tensor, Tensor]  # the base, left (out, rank), right (rank, in)


@dataclass(frozen=True)
class LoRA(Decomposer):
    """W ≈ base + alpha/rank · left @ right, where only left and right are trained.

    This is a way to fine-tune, and no compression unless the base shrinks: the rank · (out + in)
    numbers of the adapter come on top of the base's bytes. With a quantized base it is QLoRA, with
    a pruned one the idea of LoSparse. `merge` turns the trained sum into one dense matrix.

    The three starts:

    - ``zero``: left is zero and right gaussian with standard deviation 1/rank, so that step 0
      equals the base bit for bit.
    - ``pissa``: left @ right is the principal part of W and the base holds what is left of W, so
      that the directions in which W is strong are the ones trained. With a dense base step 0 equals
      W up to rounding; a quantized base has less to represent, and nothing where W has no higher
      rank than the adapter, up to 128 roundings of its largest weight.
    - ``residual``: left @ right is the best approximation, of this rank, of what the base loses,
      W − base(W) (LoftQ with one iteration). Never further from W in the norm than the base alone.
      `QuantizedPlusLowRank` iterates, and stores the product in few bits.

    The last two are best in the norm, the principal part too.

    Args:
        rank: inner dimension of the adapter, 1 ≤ rank ≤ min(out, in).
        alpha: above 0; the adapter counts alpha/rank times, so that learning rates carry over
            between ranks.
        dropout: share of the adapter's inputs dropped in training, in [0, 1).
        init: one of the three starts.
        base: the method of the frozen weight; W itself if not given, which ``residual`` excludes.
        seed: of ``zero``'s gaussian; layers of equal shape but different weights draw differently.

    Source: Hu et al., ICLR 2022 (LoRA); Dettmers et al., NeurIPS 2023 (QLoRA); Meng, Wang & Zhang,
    NeurIPS 2024, equations 2–4 (PiSSA); Li et al., ICLR 2024, algorithm 1 (LoftQ); Li et al.,
    ICML 2023 (LoSparse).
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    init: Literal["zero", "pissa", "residual"] = "zero"
    base: Decomposer | None = None
    seed: int = 0

    # The base checks the norm, too.
    family: ClassVar[str] = "adapter"
    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)
    # The adapter comes on top; what compresses is the base.
    levels: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_integer("rank", self.rank, least=1)
        check_positive("alpha", self.alpha)
        check_number("dropout", self.dropout, "lie in [0, 1)", lambda x: 0 <= x < 1)
        check_one_of("init", self.init, STARTS)
        check_integer("seed", self.seed)
        if self.base is not None and not isinstance(self.base, Decomposer):
            raise ValueError(
                f"base={self.base!r} must be a Decomposer: give an instance such as "
                "Quantization(bits=4)"
            )
        if self.init == "residual" and self.base is None:
            raise ValueError(
                "init='residual' approximates what the base loses, and a dense base loses nothing: "
                "give a base such as Quantization(bits=4), or use init='zero'"
            )

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        if self.base is not None:
            self.base.check_norms(types)

    def kernel_view(self) -> KernelView:
        return "channel" if self.base is None else self.base.kernel_view()

    def for_kernel(self, size: tuple[int, ...]) -> Decomposer:
        return self if self.base is None else replace(self, base=self.base.for_kernel(size))

    def check_shape(self, weight: Tensor) -> None:
        check_rank(self.rank, weight)
        if self.base is not None:
            with nearest_of(lambda base: replace(self, base=base)):
                self.base.check_shape(weight)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        base, left, right = STARTS[self.init](self, weight, norm)
        adapter = Scaled(Product(Dense(left), Dense(right)), self.scale, self.dropout)
        return Sum(base.requires_grad_(False), adapter, notes=base.notes)

    @property
    def scale(self) -> float:
        """The factor of left @ right."""
        return self.alpha / self.rank

    def frozen(self, weight: Tensor, norm: Norm) -> Factorization:
        """The form of the part of W that is not trained."""
        if self.base is None:
            return Dense(weight.clone())
        return self.base.decompose(weight, norm)


def merge(factorization: Factorization) -> Dense:
    """One dense matrix that gives the outputs of `factorization`, such as of a trained LoRA.

    Computed in float32 at least and rounded once to the factorization's dtype; a note says what
    that rounding changes. The base's compression is given up: quantize or prune again if its size
    is to be kept. Dropout has no part in it, as at evaluation.
    """
    with torch.no_grad():
        dtype = factorization.to_dense().dtype
        precise = copy.deepcopy(factorization).to(torch.promote_types(dtype, torch.float32))
        exact = precise.to_dense()
        merged = exact.to(dtype, copy=True)
    error = IDENTITY.relative_error(exact, merged)
    how = f"merged from {factorization.describe()}, relative error {error:.2g}"
    return Dense(merged, notes=(*factorization.notes, how))


def _zero(lora: LoRA, weight: Tensor, norm: Norm) -> Start:
    out, inner = weight.shape
    generator = generator_for(weight, lora.seed)
    right = torch.randn(lora.rank, inner, generator=generator, dtype=torch.float64) / lora.rank
    return lora.frozen(weight, norm), weight.new_zeros(out, lora.rank), right.to(weight)


def _pissa(lora: LoRA, weight: Tensor, norm: Norm) -> Start:
    left, right = _principal(lora, weight, norm)
    # The base holds the residual of the stored factors, so it compensates their rounding too.
    rest = working(weight) - lora.scale * (working(left) @ working(right))
    if lora.base is not None:
        rest = beyond_rounding(rest, weight)
    return lora.frozen(rest.to(weight.dtype), norm), left, right


def _residual(lora: LoRA, weight: Tensor, norm: Norm) -> Start:
    base = lora.frozen(weight, norm)
    with torch.no_grad():
        residual = working(weight) - working(base.to_dense())
    if not bool(residual.any()):
        why = f" ({'; '.join(base.notes)})" if base.notes else ""
        # Both factors would be zero, and zero times zero has no gradient.
        raise Unfit(
            f"init='residual' has nothing to start from: {base.describe()} equals the weight{why}. "
            "Use init='zero', or a base that loses something.",
            nearest=replace(lora, init="zero"),
        )
    left, right = _principal(lora, residual, norm)
    return base, left.to(weight.dtype), right.to(weight.dtype)


def _principal(lora: LoRA, matrix: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """left, right with scale · left @ right nearest to `matrix`, in its dtype."""
    left, right, _ = nearest(matrix, lora.rank, norm)
    share = lora.scale**-0.5
    return (share * left).to(matrix.dtype), (share * right).to(matrix.dtype)


STARTS: dict[str, Callable[[LoRA, Tensor, Norm], Start]] = {
    "zero": _zero,
    "pissa": _pissa,
    "residual": _residual,
}
