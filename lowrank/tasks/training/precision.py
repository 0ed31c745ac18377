"""The precision in which a training runs its model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.model.batch import Batch
from lowrank.model.nested import with_tensors
from lowrank.tasks.task import Task


def autocast(dtype: str | None, device: torch.device) -> AbstractContextManager[Any]:
    """Inside, matrix products run in a dtype, by its name; in their own if it is None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, getattr(torch, dtype))


def scaler_for(
    dtype: str | None, device: torch.device, parameters: Sequence[nn.Parameter]
) -> torch.amp.GradScaler:
    """What scales losses, so that gradients of float16 do not underflow; of other dtypes nothing.

    Raises:
        ValueError: parameters that are float16 themselves.
    """
    if dtype != "float16":
        return torch.amp.GradScaler("cpu", enabled=False)
    if any(parameter.dtype == torch.float16 for parameter in parameters):
        raise ValueError(
            "autocast='float16' scales gradients of float32, and this model has parameters of "
            "float16: take a model of float32, or leave autocast out"
        )
    return torch.amp.GradScaler(device.type)


def outputs_of(task: Task, model: nn.Module, batch: Batch) -> Any:
    """The outputs of a model for a loss: in float32 at least where the model runs in less."""
    outputs = task.forward(model, batch)
    if not torch.is_autocast_enabled(torch.device(task.device).type):
        return outputs
    return with_tensors(outputs, _widened)


def _widened(tensor: Tensor) -> Tensor:
    narrow = tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize
    return tensor.float() if narrow else tensor
