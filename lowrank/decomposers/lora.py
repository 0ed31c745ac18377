"""Low-rank adaptation: a frozen base and a small trainable product beside it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lowrank.approximation.alternation import Term, alternated
from lowrank.approximation.comparison import error_of
from lowrank.approximation.low_rank import nearest
from lowrank.decomposers.adapter import LowRankAdapter
from lowrank.decomposers.decomposer import Decomposer, Unfit, generator_for
from lowrank.factorizations import Dense, Factorization, Sum
from lowrank.norms import Norm
from lowrank.numerics.checks import check_integer, check_one_of
from lowrank.numerics.factors import beyond_rounding
from lowrank.numerics.memo import MEMO
from lowrank.numerics.precision import working

Start = tuple[Factorization, Factorization]  # the base, the adapter
Scaling = Literal["alpha/rank", "alpha/sqrt(rank)"]
SCALINGS = {"alpha/rank": 1.0, "alpha/sqrt(rank)": 0.5}  # The power of the rank.


@dataclass(frozen=True)
class LoRA(LowRankAdapter):
    """W ≈ base + scale · left @ right, where only left and right are trained.

    This is a way to fine-tune, and no compression unless the base shrinks: the rank · (out + in)
    numbers of the adapter come on top of the base's bytes. With a quantized base it is QLoRA, with
    a pruned one the idea of LoSparse. `merge` turns the trained sum into one dense matrix.

    The three starts:

    - ``zero``: left is zero and right uniform in ±1/√in (Kaiming's with a = √5, as in LoRA's own
      code), so that step 0 equals the base bit for bit. The variance does not depend on the rank,
      which is what makes alpha/√rank the scaling that keeps the size of updates over ranks.
    - ``pissa``: left @ right is the principal part of W and the base holds what is left of W, so
      that the directions in which W is strong are the ones trained. With a dense base step 0 equals
      W up to rounding; a quantized base has less to represent, and nothing where W has no higher
      rank than the adapter, up to 128 roundings of its largest weight.
    - ``residual``: left @ right is the best approximation, of this rank, of what the base loses,
      W − base(W) (LoftQ). Never further from W in the norm than the base alone.

    The last two are best in the norm, the principal part too. Over a base that loses something they
    go on by turns: the base of W − scale · left @ right, the best left @ right for W − base, and so
    on. Rounding can make a turn worse, so the nearest of all turns is the start, and more
    iterations are never further from W: on weights of MiniLM at 2 and 4 bits in groups of 64, with
    rank 4 and 16, five are nearer than one by 2 to 12 %. `QuantizedPlusLowRank` alternates
    likewise, and stores its product in few bits, which are not trained.

    Args:
        rank: inner dimension of the adapter, 1 ≤ rank ≤ min(out, in).
        alpha: above 0, the strength of the adapter.
        dropout: share of the adapter's inputs dropped in training, in [0, 1).
        base: the method of the frozen weight; W itself if not given, which ``residual`` excludes.
        init: one of the three starts.
        scaling: how often the adapter counts. With ``alpha/rank`` updates shrink as the rank grows;
            with ``alpha/sqrt(rank)`` (rsLoRA) they keep their size, and large ranks learn.
        seed: of ``zero``'s draw; layers of equal shape but different weights draw differently.
        iterations: turns of ``pissa`` or ``residual`` over a `base`, at least 1; each costs a
            `base` and an SVD.

    Source: Hu et al., ICLR 2022 (LoRA); Kalajdzievski, 2023, theorem 3.2 (rsLoRA); Dettmers et al.,
    NeurIPS 2023 (QLoRA); Meng, Wang & Zhang, NeurIPS 2024, equations 2–4 (PiSSA; with a base its
    QPiSSA); Li et al., ICLR 2024, algorithm 1 (LoftQ); Li et al., ICML 2023 (LoSparse).
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    base: Decomposer | None = None
    init: Literal["zero", "pissa", "residual"] = "zero"
    scaling: Scaling = "alpha/rank"
    seed: int = 0
    iterations: int = 1

    def __post_init__(self) -> None:
        self.check_fields()
        check_one_of("init", self.init, STARTS)
        check_one_of("scaling", self.scaling, SCALINGS)
        check_integer("seed", self.seed)
        check_integer("iterations", self.iterations, least=1)
        if self.init == "residual" and self.base is None:
            raise ValueError(
                "init='residual' approximates what the base loses, and a dense base loses nothing: "
                "give a base such as Quantization(bits=4), or use init='zero'"
            )
        if self.iterations > 1 and (self.base is None or self.init == "zero"):
            raise ValueError(
                f"iterations={self.iterations} has no effect with init={self.init!r} and "
                f"base={self.base}: an alternation sets in turn a base that loses something and an "
                "adapter that compensates it. Leave it out, or take init='residual' and a base "
                "such as Quantization(bits=4)"
            )

    def without_start(self, why: str) -> Unfit:
        """The error that the adapter has nothing to start from."""
        return Unfit(
            f"init={self.init!r} has nothing to start from: {why}. Use init='zero'.",
            nearest=replace(self, init="zero", iterations=1),
        )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank ** SCALINGS[self.scaling]

    def trained(self, shape: tuple[int, int]) -> int:
        return self.rank * sum(shape)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        # What iterations make of this weight can never occur again.
        with MEMO.passing() if self.iterations > 1 else nullcontext():
            base, adapter = STARTS[self.init](self, weight, norm)
        return Sum(base, adapter, notes=base.notes)

    def terms(self, weight: Tensor, norm: Norm) -> tuple[Term, Term]:
        """Base and adapter, each the approximation of what the other leaves of the weight."""

        def base(rest: Tensor) -> Factorization:
            # A dense base compensates the rounding of the adapter, too.
            rest = rest if self.base is None else beyond_rounding(rest, weight)
            stored = rest.to(weight.dtype)
            if self.iterations > 1 and not bool(stored.isfinite().all()):
                raise ValueError(
                    f"what the adapter leaves of the weight is beyond the range of its dtype, "
                    f"{weight.dtype}: convert the model, as by model.float(), or use iterations=1"
                )
            return self.frozen(stored, norm)

        def adapter(rest: Tensor) -> Factorization | None:
            if not bool(rest.any()):
                # Both factors would be zero, and zero times zero has no gradient.
                return None
            factors, share = nearest(rest, self.rank, norm)[:2], self.scale**-0.5
            # As they are stored, and in the dtype in which their product is not rounded again.
            stored = [working((share * factor).to(weight.dtype)) for factor in factors]
            return self.scaled(*map(Dense, stored))

        return base, adapter


def _zero(lora: LoRA, weight: Tensor, norm: Norm) -> Start:
    out, inner = weight.shape
    generator = generator_for(weight, lora.seed)
    shares = torch.rand(lora.rank, inner, generator=generator, dtype=torch.float64)
    right = ((2 * shares - 1) / inner**0.5).to(weight)
    adapter = lora.scaled(Dense(weight.new_zeros(out, lora.rank)), Dense(right))
    return lora.frozen(weight, norm), adapter


def _pissa(lora: LoRA, weight: Tensor, norm: Norm) -> Start:
    base, adapter = lora.terms(weight, norm)
    passes = list(alternated(working(weight), [adapter, base], lora.iterations))
    if not passes:
        raise lora.without_start("the weight is zero")
    return _nearest(weight, norm, [(base, adapter) for adapter, base in passes])


def _residual(lora: LoRA, weight: Tensor, norm: Norm) -> Start:
    passes = list(alternated(working(weight), lora.terms(weight, norm), lora.iterations))
    first, *adapters = passes[0]
    if not adapters:
        why = f" ({'; '.join(first.notes)})" if first.notes else ""
        raise lora.without_start(f"the base, {first.describe()}, equals the weight{why}")
    # A pass without an adapter is that of a base that equals the weight by chance.
    return _nearest(weight, norm, [(terms[0], terms[1]) for terms in passes if terms[1:]])


def _nearest(weight: Tensor, norm: Norm, starts: list[Start]) -> Start:
    """That of the least error in the norm; of equals, the first."""
    return min(starts, key=lambda terms: error_of(weight, norm, Sum(*terms)))


STARTS: dict[str, Callable[[LoRA, Tensor, Norm], Start]] = {
    "zero": _zero,
    "pissa": _pissa,
    "residual": _residual,
}
