"""LoRA-XS: a trained rank × rank core between frozen singular vectors of the weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lowrank.approximation.low_rank import nearest_svd
from lowrank.decomposers.adapter import LowRankAdapter, frozen_dense, notes_of
from lowrank.decomposers.decomposer import Decomposer, Unfit
from lowrank.factorizations import Dense, Factorization, Sum
from lowrank.norms import Norm


@dataclass(frozen=True)
class LoRAXS(LowRankAdapter):
    """W ≈ base + alpha/rank · (u s) @ core @ vᵀ, where only the core, (rank, rank), is trained.

    u s vᵀ is the matrix of that rank nearest to W in the norm; u s and vᵀ stay frozen. One task
    takes rank² numbers whatever the size of the layer; what is frozen is the same for all tasks.
    The updates that can be reached keep to the directions in which W is strong: a task that needs
    others has to have a LoRA.

    The core starts at zero, so that step 0 equals the base bit for bit. The paper draws it with
    standard deviation 1e-5, which has no other effect: the gradient of the core does not vanish at
    zero, as it does where both factors are trained.

    Args:
        rank: 1 ≤ rank ≤ min(out, in).
        alpha: above 0; the core counts alpha/rank times.
        dropout: share of the adapter's inputs dropped in training, in [0, 1).
        base: the method of the frozen weight; W itself if not given.

    Source: Bałazy et al., 2024 (LoRA-XS), section 3.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    base: Decomposer | None = None

    def __post_init__(self) -> None:
        self.check_fields()

    def trained(self, shape: tuple[int, int]) -> int:
        return self.rank**2

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        if not bool(weight.any()):
            raise Unfit(
                "the core lies between singular vectors of the weight, which is zero: there is "
                "nothing to start from, and it would get no gradient. Take a LoRA, or leave this "
                "layer out with `where`."
            )
        base = self.frozen(weight, norm)
        u, s, vh, notes = nearest_svd(weight, self.rank, norm)
        core = Dense(weight.new_zeros(self.rank, self.rank))
        adapter = self.scaled(frozen_dense(u * s, weight), core, frozen_dense(vh, weight))
        return Sum(base, adapter, notes=notes_of([base], *notes))
