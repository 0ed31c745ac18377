"""Fine-tuning: training of the compressed model by gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from lowrank.factorizations import Factorization
from lowrank.model.batch import Batch
from lowrank.model.forward import evaluating
from lowrank.numerics.checks import check_number, check_one_of, check_positive
from lowrank.numerics.memo import model_fingerprint
from lowrank.recovery.by_training import ByTraining
from lowrank.recovery.toward_dense import toward_dense
from lowrank.tasks import Task
from lowrank.tasks.training.resuming import named
from lowrank.tasks.training.training import Loss, Progress, silent

SCOPES = ("model", "factorizations")


@dataclass(frozen=True)
class FineTune(ByTraining):
    """`Training` of every parameter that requires a gradient.

    A pruned weight stays pruned: a sparse factorization holds survivors only. Does not pay where
    little can be trained: of a quantized model only the biases and the normalisations, not the
    codes.

    Args:
        distill: share in [0, 1] of the task's distance to the dense model in the loss, KL(dense ‖
            model) for scores of classes; the rest is the task's own loss.
        scope: ``model``, or ``factorizations``: every parameter outside of them, such as biases and
            layers that were not compressed, is frozen and stays so, as in LoRA's training of its
            adapters alone. A model without factorizations, the dense baseline, is trained whole.
        temperature: above 0; scores of both models are divided by it in the distance, which then
            counts temperature² times, so that its gradient keeps its size. Other outputs than
            scores are divided too.

    Raises:
        ValueError: an option outside its range, or, from `recover`, nothing that can be trained.
        FloatingPointError: from `recover`, a loss that is NaN or infinite.

    Source: Hinton, Vinyals & Dean 2015, section 2 (distillation, and the factor of temperature²).
    """

    distill: float = 0.0
    scope: Literal["model", "factorizations"] = "model"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("distill", self.distill, "lie in [0, 1]", lambda x: 0 <= x <= 1)
        check_one_of("scope", self.scope, SCOPES)
        check_positive("temperature", self.temperature)
        if self.temperature != 1 and not self.distill:
            raise ValueError(
                f"temperature={self.temperature} has no effect without distill: leave it out, or "
                "take distill=0.5"
            )

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        dense = task.model() if self.distill else model
        return self.recover_toward(model, dense, task, progress)

    def recover_toward(
        self, model: nn.Module, dense: nn.Module, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        if self.scope == "factorizations":
            freeze_outside_factorizations(model)
        if not self.distill:
            return self.train(model, task, None, progress, options=self)
        loss = distilled(task, dense, self.distill, self.temperature)
        # Of its states only one toward this dense model is gone on from.
        with evaluating(dense), named(f"toward-{model_fingerprint(dense)}"):
            return self.train(model, task, loss, progress, options=self)


def distilled(task: Task, dense: nn.Module, share: float, temperature: float = 1.0) -> Loss:
    """The loss of a task, with the weight `share` for the distance to the dense model.

    The distance counts temperature² times, for its gradient falls with 1/temperature².
    """
    weight = share * temperature**2

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        distance, outputs = toward_dense(task, model, dense, batch, temperature)
        return (1 - share) * task.loss(outputs, batch.targets) + weight * distance

    return loss


def freeze_outside_factorizations(model: nn.Module) -> None:
    """Freeze all parameters outside of factorizations, in place; a model without any stays as it
    is.
    """
    factorizations = [module for module in model.modules() if isinstance(module, Factorization)]
    inside = {id(p) for module in factorizations for p in module.parameters()}
    for parameter in model.parameters():
        if factorizations and id(parameter) not in inside:
            parameter.requires_grad_(False)
