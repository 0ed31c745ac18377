"""Early stopping: the best weights on the validation split, and when no better ones come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.model.forward import evaluating
from lowrank.tasks.task import LOSS, Task


class EarlyStopping:
    """The weights of the best epoch so far.

    Args:
        moving: the tensors of the model that training changes, by name.
        patience: epochs without a better value after which training ends.

    Attributes:
        values: of the task's first metric on the validation split, before training and after each
            epoch; None where it is not defined.
        best: the tensors at the best of them.
    """

    def __init__(
        self, model: nn.Module, task: Task, moving: Mapping[str, Tensor], patience: int
    ) -> None:
        self.model, self.task, self.moving, self.patience = model, task, moving, patience
        self.metric = task.judged_by()[0]
        self.values: list[float | None] = []
        self.best: dict[str, Tensor] = {}

    @property
    def best_epoch(self) -> int:
        """The epoch with the best value, the first of equal ones; 0 is before training."""
        sign = 1 if self.metric.higher_is_better else -1
        worths = [-math.inf if value is None else sign * value for value in self.values]
        return worths.index(max(worths))

    @property
    def is_over(self) -> bool:
        """Whether no better value came in the last epochs."""
        return len(self.values) - 1 - self.best_epoch >= self.patience

    def look(self) -> None:
        """Measure the model after an epoch, and keep its weights if they are the best."""
        value = validation_value(self.model, self.task, self.metric.name)
        self.values.append(value if math.isfinite(value) else None)
        if self.best_epoch == len(self.values) - 1:
            self.best = {name: tensor.detach().clone() for name, tensor in self.moving.items()}

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model the best weights.

        Raises:
            ValueError: the metric was not defined after any epoch, so that none is the best.
        """
        if all(value is None for value in self.values):
            raise ValueError(
                f"{self.metric.name} on the validation split is NaN or infinite before training "
                f"and after each of {len(self.values) - 1} epochs, so that none is the best: "
                "leave out patience, or judge by a metric that is defined there"
            )
        for name, tensor in self.moving.items():
            tensor.copy_(self.best[name])

    def found(self) -> dict[str, Any]:
        """What was chosen, for the record."""
        chosen = {"metric": self.metric.name, "values": self.values}
        return {"best_epoch": self.best_epoch, "validation": chosen}


@torch.no_grad()
def validation_value(model: nn.Module, task: Task, name: str) -> float:
    """A metric of a model on the validation split of a task, in evaluation mode.

    Raises:
        ValueError: the task does not measure it.
    """
    metrics, loss, counted = task.metrics(), 0.0, 0
    with evaluating(model):
        for batch in task.split("validation").batches(task.batch_sizes.quality):
            outputs = task.predict(model, batch)
            task.count(metrics, outputs, batch.targets)
            predictions = int(task.predictions(batch).sum())
            if predictions:
                loss += float(task.loss(outputs, batch.targets)) * predictions
                counted += predictions
    values = {LOSS: loss / counted if counted else math.nan}
    values |= {metric: float(value) for metric, value in metrics.compute().items()}
    if name not in values:
        reason = task.undefined().get(name, "its metrics do not measure it")
        raise ValueError(f"task {task.name!r} judges by {name!r}, which it lacks: {reason}")
    return values[name]
