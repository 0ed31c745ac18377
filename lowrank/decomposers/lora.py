"""Low-rank adaptation: a frozen base and a small trainable product beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lowrank.approximation.low_rank import nearest
from lowrank.decomposers.adapter import LowRankAdapter
from lowrank.decomposers.decomposer import Decomposer, Unfit, generator_for
from lowrank.factorizations import Dense, Factorization, Sum
from lowrank.norms import Norm
from lowrank.numerics.checks import check_integer, check_one_of
from lowrank.numerics.factors import beyond_rounding
from lowrank.numerics.precision import working

Start = tuple[Factorization, Tensor, Tensor]  # the base, left (out, rank), right (rank, in)
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
      W − base(W) (LoftQ with one iteration). Never further from W in the norm than the base alone.
      `QuantizedPlusLowRank` iterates, and stores the product in few bits.

    The last two are best in the norm, the principal part too.

    Args:
        rank: inner dimension of the adapter, 1 ≤ rank ≤ min(out, in).
        alpha: above 0, the strength of the adapter.
        dropout: share of the adapter's inputs dropped in training, in [0, 1).
        base: the method of the frozen weight; W itself if not given, which ``residual`` excludes.
        init: one of the three starts.
        scaling: how often the adapter counts. With ``alpha/rank`` updates shrink as the rank grows;
            with ``alpha/sqrt(rank)`` (rsLoRA) they keep their size, and large ranks learn.
        seed: of ``zero``'s draw; layers of equal shape but different weights draw differently.

    Source: Hu et al., ICLR 2022 (LoRA); Kalajdzievski, 2023, theorem 3.2 (rsLoRA); Dettmers et al.,
    NeurIPS 2023 (QLoRA); Meng, Wang & Zhang, NeurIPS 2024, equations 2–4 (PiSSA); Li et al.,
    ICLR 2024, algorithm 1 (LoftQ); Li et al., ICML 2023 (LoSparse).
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    base: Decomposer | None = None
    init: Literal["zero", "pissa", "residual"] = "zero"
    scaling: Scaling = "alpha/rank"
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_fields()
        check_one_of("init", self.init, STARTS)
        check_one_of("scaling", self.scaling, SCALINGS)
        check_integer("seed", self.seed)
        if self.init == "residual" and self.base is None:
            raise ValueError(
                "init='residual' approximates what the base loses, and a dense base loses nothing: "
                "give a base such as Quantization(bits=4), or use init='zero'"
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank ** SCALINGS[self.scaling]

    def trained(self, shape: tuple[int, int]) -> int:
        return self.rank * sum(shape)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        base, left, right = STARTS[self.init](self, weight, norm)
        return Sum(base, self.scaled(Dense(left), Dense(right)), notes=base.notes)


def _zero(lora: LoRA, weight: Tensor, norm: Norm) -> Start:
    out, inner = weight.shape
    generator = generator_for(weight, lora.seed)
    shares = torch.rand(lora.rank, inner, generator=generator, dtype=torch.float64)
    right = (2 * shares - 1) / inner**0.5
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
