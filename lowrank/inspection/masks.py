"""Where a pruned model keeps its weights: in images, and in the heads of attention."""

from __future__ import annotations

import math

from torch import Tensor, nn

from lowrank.inspection.weights import pairs
from lowrank.model.nested import tensors
from lowrank.tasks.task import Task

# The attributes in which modules of attention hold the width of a head.
WIDTHS = ("head_dim", "attention_head_size")


def kept_images(dense: nn.Module, compressed: nn.Module, task: Task) -> Tensor:
    """The weights of the first layer that are not 0, as images: bool (units, height, width).

    Of a convolution the filters, one for each pair of channels; of a linear layer on images (batch,
    channels, height, width) one image for each unit, kept in any channel.

    Args:
        dense: by which layers are found, of the architecture of `compressed`.

    Raises:
        ValueError: the first layer does not read images.
    """
    first = next(pairs(dense, compressed), None)
    if first is None:
        raise ValueError("the model has no layer with a weight")
    name, kept = first[0].name, first[2] != 0
    if kept.ndim == 4:
        return kept.flatten(0, 1).cpu()
    shape = tensors(task.example(1))[0].shape[1:]
    if len(shape) != 3 or kept.ndim != 2 or math.prod(shape) != kept.shape[1]:
        raise ValueError(
            f"the first layer, {name}, reads no images: its weight is {tuple(kept.shape)}, and an "
            f"example {tuple(shape)}"
        )
    return kept.reshape(len(kept), *shape).any(dim=1).cpu()


def kept_of_heads(compressed: nn.Module) -> dict[str, Tensor]:
    """The share of weights that are not 0 in each head of attention, by the name of the layer.

    The layers are the linear ones inside of modules that say how wide a head is. A head's weights
    are rows of a layer that makes queries, keys or values, and columns of one that reads the heads:
    the axis that is the wider one, or the rows where both are equal, but for the last layer of a
    module, which reads.

    Returns:
        name → float64 (heads,); layers that share keys have fewer heads.

    Raises:
        ValueError: no module says how wide its heads are.
    """
    found = {}
    for path, module in compressed.named_modules():
        width = next((getattr(module, name) for name in WIDTHS if hasattr(module, name)), None)
        if not isinstance(width, int) or width < 1:
            continue
        layers = {
            name: weight
            for name, layer in module.named_children()
            if isinstance(weight := getattr(layer, "weight", None), Tensor) and weight.ndim == 2
        }
        for place, (name, weight) in enumerate(layers.items(), start=1):
            axis = 1 if place == len(layers) and len(layers) > 3 else 0
            if weight.shape[axis] % width == 0:
                parts = (weight.detach() != 0).double().movedim(axis, 0)
                shares = parts.reshape(-1, width * parts.shape[1]).mean(dim=1)
                found[f"{path}.{name}" if path else name] = shares.cpu()
    if not found:
        raise ValueError("no module of the model says how wide its heads of attention are")
    return found
