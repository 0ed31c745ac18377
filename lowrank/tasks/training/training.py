"""The training of dense and of compressed models."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.model.batch import Batch
from lowrank.tasks.task import Task
from lowrank.tasks.training.loop import Loop, Loss, Progress
from lowrank.tasks.training.options import TrainingOptions
from lowrank.tasks.training.precision import outputs_of
from lowrank.tasks.training.recipe import Recipe


def silent(done: int, total: int, loss: float) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Training(Recipe):
    """Gradient descent on the train split of a task.

    Args:
        epochs: passes over the train split, ≥ 1.
        learning_rate: at the start, > 0.
        batch_size: examples per step, ≥ 1; the last batch of an epoch may be shorter.
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum.
        momentum: of ``sgd``, in [0, 1).
        schedule: ``cosine`` (to zero at the end) or ``constant``.
        weight_decay: decoupled in ``adamw``, an L2 penalty in ``sgd``; ≥ 0.

    Raises:
        ValueError: an option outside its range.

    Source: Loshchilov & Hutter, ICLR 2017 (cosine) and 2019 (AdamW).
    """

    def plain(self, **changes: Any) -> Training:
        """This training with other options, and without what a subclass adds."""
        own = {one.name: getattr(self, one.name) for one in fields(Training)}
        return Training(**(own | changes))

    @torch.inference_mode(False)
    @torch.enable_grad()
    def train(
        self,
        model: nn.Module,
        task: Task,
        loss: Loss | None = None,
        progress: Progress = silent,
        part: range | None = None,
        options: TrainingOptions | None = None,
    ) -> dict[str, Any]:
        """Train every parameter of `model` that requires a gradient, in place.

        The task's seed draws the order of batches and dropout. The model keeps its mode, training
        or eval, and so does each module of it; where the model is in training mode, a module that
        is not, such as a BatchNorm whose statistics are to be kept, stays so while it trains. A bar
        shows the steps if stderr is a terminal. Inside
        `lowrank.tasks.resumable` a training goes on where a killed process left it.

        Args:
            loss: the loss of a batch; the task's if not given. A training that goes on must be
                given the same again: what a function computes is not compared.
            progress: called with (epochs done, epochs in all, mean loss) after each epoch.
            part: the epochs of this call, counted from 0, of a training in several calls: the
                learning rate and the order of batches go on from call to call, while momenta begin
                anew. All epochs if not given.
            options: early stopping, accumulation, precision and rates; none if not given.

        Returns:
            "losses" (the mean of each epoch), "steps" and "trained_params" (their numbers),
            "optimizer_bytes" (of the optimizer's state at the end), "peak_memory_bytes" (see
            `lowrank.measure.memory.StepMemory`) and "step_s" (the median seconds of a step; None if
            all were done before). With `patience` also "epochs" (those that were trained),
            "best_epoch" (whose weights the model has; 0 for those before training) and "validation"
            (the metric, and its values before training and after each epoch).

        Raises:
            ValueError: no parameter requires a gradient, one of float16 is to be trained by AdamW,
                the task has no train examples, or an option that does not suit the model or task.
            FloatingPointError: a loss that is NaN or infinite, or after the last step a parameter
                or the loss of the first batch in evaluation mode.
        """
        epochs = range(self.epochs) if part is None else part
        how = TrainingOptions() if options is None else options
        return Loop(self, how, model, task, loss or task_loss(task), epochs).run(progress)


def task_loss(task: Task) -> Loss:
    """The loss of a task, as a function of a model and a batch."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return task.loss(outputs_of(task, model, batch), batch.targets)

    return loss
