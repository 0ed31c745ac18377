"""Where the first layer of a pruned model keeps its weights, as images."""

from __future__ import annotations

import math

from torch import Tensor, nn

from lowrank.inspection.weights import pairs
from lowrank.model.nested import tensors
from lowrank.tasks.task import Task


def kept_images(dense: nn.Module, compressed: nn.Module, task: Task) -> Tensor:
    """Where each unit of the first layer has a weight that is not 0 in any channel, as images: bool
    (units, height, width).

    The units are the filters of a convolution, or those of a linear layer on images (batch,
    channels, height, width).

    Args:
        dense: by which layers are found, of the architecture of `compressed`.

    Raises:
        ValueError: the first layer does not read images, or its units keep all places.
    """
    first = next(pairs(dense, compressed), None)
    if first is None:
        raise ValueError("the model has no layer with a weight")
    name, kept = first[0].name, first[2] != 0
    if kept.ndim == 4:
        return _with_gaps(kept, name)
    shape = tensors(task.example(1))[0].shape[1:]
    if len(shape) != 3 or kept.ndim != 2 or math.prod(shape) != kept.shape[1]:
        raise ValueError(
            f"the first layer, {name}, reads no images: its weight is {tuple(kept.shape)}, and an "
            f"example {tuple(shape)}"
        )
    return _with_gaps(kept.reshape(len(kept), *shape), name)


def _with_gaps(kept: Tensor, name: str) -> Tensor:
    images = kept.any(dim=1).cpu()
    if images.all():
        raise ValueError(f"every unit of the first layer, {name}, keeps every place of its image")
    return images
