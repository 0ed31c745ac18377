"""The distance of a model to the dense one, which recoveries descend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lowrank.model.batch import Batch
from lowrank.model.nested import with_tensors
from lowrank.tasks import Task
from lowrank.tasks.training.precision import outputs_of


def toward_dense(
    task: Task, model: nn.Module, dense: nn.Module, batch: Batch, temperature: float = 1.0
) -> tuple[Tensor, Any]:
    """The task's distance on a batch, differentiable, and the outputs of the model there.

    Args:
        temperature: by which the outputs of both are divided for the distance.
    """
    with torch.no_grad():
        wanted = outputs_of(task, dense, batch)
    outputs = outputs_of(task, model, batch)
    if temperature == 1:
        return task.distance(outputs, wanted, batch), outputs
    cool, wanted_cool = (
        with_tensors(each, lambda t: t / temperature) for each in (outputs, wanted)
    )
    return task.distance(cool, wanted_cool, batch), outputs
