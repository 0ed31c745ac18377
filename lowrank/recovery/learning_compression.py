"""The learning-compression algorithm: training drawn toward the nearest compressed weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.compression.report import Again, Compressed
from lowrank.model.batch import Batch
from lowrank.numerics.checks import check_flag, check_integer, check_number, check_positive
from lowrank.numerics.memo import MEMO
from lowrank.recovery.by_training import ByTraining, check_no_adapters, check_no_patience
from lowrank.recovery.twin import Twin
from lowrank.tasks import Task
from lowrank.tasks.training.training import Loss, Progress, silent, task_loss

# The share of the weights up to which they count as near to their compressed form.
NEAR_ENOUGH = 0.05


@dataclass(frozen=True)
class LearningCompression(ByTraining):
    """Minimises the task's loss over weights that the method can represent exactly.

    The dense weights w and what the method makes of them, Δ(Θ), are brought together by turns. The
    L step trains the dense model on loss + μ/2 ‖w − Δ(Θ) − λ/μ‖² over the compressed layers; the C
    step compresses w − λ/μ, by the method as it is; then λ falls by μ (w − Δ(Θ)), and μ grows. The
    result is Δ(Θ), with all other parameters as trained: exactly a compressed model.

    Works with every method and every form, and trains weights behind codes and masks, so those
    change. The C step is exact, as the theory asks, for a method that is nearest in the identity
    norm; others, norms of data (calibrated on w) and allocations (chosen anew) are taken as they
    are. At the end the weights must have come near: the record has ‖w − Δ(Θ)‖ / ‖w‖ after each step
    as "gaps", and a note if the last is above 0.05. It is after few batches in an L step at a low
    learning rate: at the end μ · learning rate · batches should be above 1, and early below.

    The dense model gets the same training without the penalty.

    Args:
        epochs: of all training together, a multiple of `steps`; the learning-rate schedule covers
            all of them. A learning rate above 1/μ is lowered to it, because the penalty alone would
            otherwise diverge.
        steps: pairs of an L and a C step, ≥ 1.
        penalty: μ of the first step, above 0. For a mean cross-entropy 1e-4 to 1e-3.
        growth: the factor of μ from step to step, ≥ 1.
        multipliers: whether λ is used (augmented Lagrangian); without, λ = 0 (quadratic penalty).

    Raises:
        ValueError: an option outside its range; from `recover_compressed`, a model that does not
            know how it was compressed, has adapters, or cannot be trained.
        FloatingPointError: a loss that is NaN or infinite.

    Source: Carreira-Perpiñán 2017 (arXiv 1707.01209, figure 2); Carreira-Perpiñán & Idelbayev,
    CVPR 2018 (pruning), and Idelbayev & Carreira-Perpiñán, CVPR 2020 (low rank).
    """

    steps: int = 20
    penalty: float = 1e-3
    growth: float = 1.4
    multipliers: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("steps", self.steps, least=1)
        check_positive("penalty", self.penalty)
        check_number("growth", self.growth, "be at least 1 and finite", lambda x: 1 <= x < 1e9)
        check_flag("multipliers", self.multipliers)
        check_no_patience(self)
        if self.left_rate != 1:
            raise ValueError(
                f"left_rate={self.left_rate} has no effect: dense weights are trained, which have "
                "no left factor; leave it out"
            )
        if self.epochs % self.steps:
            raise ValueError(
                f"epochs={self.epochs} must be a multiple of steps={self.steps}: each step trains "
                "for as many epochs"
            )

    @property
    def begins_dense(self) -> bool:
        return True

    def check_forms(self, model: nn.Module) -> None:
        super().check_forms(model)
        check_no_adapters(self, model)

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        return self.train(model, task, progress=progress, options=self)

    @torch.inference_mode(False)
    def change(
        self, compressed: Compressed, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        self.check_forms(compressed.model)
        again, twin = compressed.must_know_how(), Twin.of(compressed)
        with MEMO.passing():  # The weights will never be these again.
            compressed.take(again(twin.model, 1.0))
        weights, images = twin.weights(compressed), twin.images(compressed)
        shifts = [torch.zeros_like(weight) for weight in weights]  # λ/μ
        each, penalty = self.epochs // self.steps, self.penalty
        losses: list[float] = []
        gaps: list[float] = []
        last, taken, peak = {}, 0, 0
        for step in range(self.steps):
            targets = [image + shift for image, shift in zip(images, shifts, strict=True)]
            recipe = self.plain(learning_rate=min(self.learning_rate, 1 / penalty))
            loss = penalised(task_loss(task), weights, targets, penalty)
            part = range(step * each, (step + 1) * each)
            last = recipe.train(twin.model, task, loss, progress, part, self)
            losses, taken = losses + last["losses"], taken + last["steps"]
            peak = max(peak, last["peak_memory_bytes"])
            with MEMO.passing():
                compressed.take(compressed_at(again, twin.model, weights, shifts))
            images = twin.images(compressed)
            gaps.append(_gap(weights, images))
            if self.multipliers:
                for shift, weight, image in zip(shifts, weights, images, strict=True):
                    # λ ← λ − μ (w − Δ(Θ)), divided by the next μ.
                    shift.sub_(weight.detach() - image).div_(self.growth)
            penalty *= self.growth
        found = last | {"losses": losses, "steps": taken, "gaps": gaps, "peak_memory_bytes": peak}
        return found | ({"note": _far(gaps[-1])} if gaps[-1] > NEAR_ENOUGH else {})


def penalised(
    base: Loss, weights: Sequence[Tensor], targets: Sequence[Tensor], penalty: float
) -> Loss:
    """A loss plus μ/2 times the squared distances of weights to targets of their shapes."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        pairs = zip(weights, targets, strict=True)
        distances = [(weight - target).square().sum() for weight, target in pairs]
        return base(model, batch) + penalty / 2 * torch.stack(distances).sum()

    return loss


@torch.no_grad()
def compressed_at(
    again: Again, model: nn.Module, weights: Sequence[nn.Parameter], shifts: Sequence[Tensor]
) -> Compressed:
    """What the method makes of a model whose `weights` are lower by `shifts`; the model is left as
    it was."""
    before = [weight.detach().clone() for weight in weights]
    try:
        for weight, shift in zip(weights, shifts, strict=True):
            weight.sub_(shift)
        return again(model, 1.0)
    finally:
        for weight, own in zip(weights, before, strict=True):
            weight.copy_(own)


def _gap(weights: Sequence[Tensor], images: Sequence[Tensor]) -> float:
    """‖w − Δ(Θ)‖ / ‖w‖ over all weights together."""
    pairs = zip(weights, images, strict=True)
    missed = sum(_energy(weight.detach() - image) for weight, image in pairs)
    whole = sum(map(_energy, weights))
    return (missed / whole) ** 0.5 if whole else 0.0


def _far(gap: float) -> str:
    return (
        f"the trained weights end {100 * gap:.0f} % of their norm away from their compressed form: "
        "raise growth, penalty or the number of epochs, or take smaller batches"
    )


def _energy(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().sum())
