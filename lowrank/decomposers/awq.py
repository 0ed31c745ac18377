"""Activation-aware quantization (AWQ): columns of strong inputs are scaled up before rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from lowrank.approximation.quantization_grid import SCALE_DTYPES
from lowrank.approximation.rounding import Rounding, is_uneven
from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Factorization, ScaledColumns
from lowrank.norms import Norm
from lowrank.numerics.checks import check_integer
from lowrank.numerics.precision import working

# Inputs of less than this share of the largest mean square are scaled as if they had it.
WEAKEST = 1e-8


@dataclass(frozen=True)
class AWQ(Decomposer):
    """W ≈ Q(W · diag(s)) · diag(1/s), with Q rounding to nearest as `Quantization` does.

    With s_j = E[x_j²]^(alpha/2), columns of strong inputs are scaled up, and so have a smaller
    relative rounding error, at the cost of the other columns of their group. Of the alphas 0,
    1/steps, …, 1 the one of least error in the norm is taken, and alpha = 0, which is plain
    `Quantization`, if that is as good. So it is never worse in the norm than `Quantization`.

    The column scales 1/s are stored with the layer: 16 / out bits for each weight more than
    `Quantization` stores, which matters for small matrices, and none at alpha = 0. A note states
    alpha. It pays at 3 and 4 bits where few inputs are much stronger than the others; in the full
    norm `GPTQ` is better. In the identity norm it is `Quantization`.

    Args:
        bits, group_size, symmetric, scale, scale_dtype: as in `Quantization`; ``"mse"`` weighs
            errors by the diagonal of the norm, and the best alpha is then half as large.
        steps: of alpha from 0 to 1, at least 1; each takes as long as rounding once.

    Raises:
        ValueError: as `Quantization`.

    Source: Lin et al., MLSys 2024, section 3.2.
    """

    bits: int
    group_size: int | str = "channel"
    symmetric: bool = True
    scale: Literal["range", "mse"] = "mse"
    scale_dtype: str = "float16"
    steps: int = 10

    family: ClassVar[str] = "quantized"
    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)

    def __post_init__(self) -> None:
        self.rounding()
        check_integer("steps", self.steps, least=1)

    def rounding(self) -> Rounding:
        """Where the levels lie."""
        return Rounding(self.bits, self.group_size, self.symmetric, self.scale, self.scale_dtype)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        rounding, weights = self.rounding(), norm.entry_weights(weight)
        best: Factorization = rounding.nearest(weight, rounding.grid(weight, weights))
        strength = weights.mean(dim=0).expand(weight.shape[1])
        error = norm(working(weight) - best.to_dense())
        for step in range(1, self.steps + 1) if is_uneven(strength) else ():
            alpha = step / self.steps
            scale = column_scale(strength, alpha).to(SCALE_DTYPES[self.scale_dtype])
            exact = scale.double()
            scaled = weight.double() / exact
            grid = rounding.weighted_grid(scaled, weights * exact.square())
            term = rounding.nearest(scaled, grid).to(weight.dtype)
            trial = ScaledColumns(term, scale, (f"columns scaled with alpha={alpha:g}",))
            trial_error = norm(working(weight) - trial.to_dense())
            if trial_error < error:
                best, error = trial, trial_error
        return best


def column_scale(strength: Tensor, alpha: float) -> Tensor:
    """1/s of inputs of mean square `strength`, (in,).

    The geometric mean of the largest and the smallest is 1, so that 16 bits hold either.
    """
    factors = strength.clamp_min(WEAKEST * strength.max()).pow(-alpha / 2)
    return factors / (factors.max() * factors.min()).sqrt()
