"""The distance of a model to the dense one, which recoveries descend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lowrank.model.batch import Batch
from lowrank.tasks import Task


def toward_dense(
    task: Task, model: nn.Module, dense: nn.Module, batch: Batch
) -> tuple[Tensor, Any]:
    """The task's distance on a batch, differentiable, and the outputs of the model there."""
    with torch.no_grad():
        wanted = task.forward(dense, batch)
    outputs = task.forward(model, batch)
    return task.distance(outputs, wanted, batch), outputs
