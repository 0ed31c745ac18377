"""The channels of layers: which weights are zero, and what a run shows of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

KINDS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


def mixes_channels(module: object) -> bool:
    """Whether it is a Linear layer or a convolution in which each output sees all inputs."""
    return type(module) in KINDS and getattr(module, "groups", 1) == 1


def zero_outputs(layer: nn.Module) -> Tensor:
    """Of each output of a layer, whether all its weights are zero; its bias may be any."""
    return _are_zero(layer, 1 if isinstance(layer, _ConvTransposeNd) else 0)


def zero_inputs(layer: nn.Module) -> Tensor:
    """Of each input of a layer, whether all weights that multiply it are zero."""
    return _are_zero(layer, 0 if isinstance(layer, _ConvTransposeNd) else 1)


def _are_zero(layer: nn.Module, axis: int) -> Tensor:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return ~weight.detach().movedim(axis, 0).flatten(1).any(dim=1)


def can_fold(layer: nn.Module) -> bool:
    """Whether a constant input gives a constant output: nothing else lies at the borders."""
    if not isinstance(layer, _ConvNd):
        return True
    if isinstance(layer, _ConvTransposeNd):
        return False
    pads = layer.padding != "valid" and any(layer._reversed_padding_repeated_twice)
    return layer.padding_mode != "zeros" or not pads


def fold(layer: nn.Module, places: Sequence[int], values: Tensor) -> None:
    """Add what constant inputs give to the bias of a layer, as a new parameter.

    Args:
        places: of the inputs.
        values: of each.
    """
    weight: Tensor = layer.weight  # type: ignore[assignment]
    # All positions of a kernel see the same constant.
    own = weight.detach()[:, places].double().flatten(1).unflatten(1, (len(places), -1)).sum(2)
    shift = own @ values.double().to(own.device)
    bias = layer.bias
    total = shift if bias is None else bias.detach().double() + shift  # type: ignore[operator]
    layer.bias = nn.Parameter(total.to(weight.dtype), requires_grad=weight.requires_grad)


@dataclass
class Seen:
    """What a layer was called with.

    Attributes:
        calls: how often.
        low, high: the least and the greatest value of each input channel.
    """

    calls: int
    low: Tensor
    high: Tensor

    def constant(self, place: int) -> float | None:
        """The value of a channel, up to rounding; None if it has several."""
        low, high = float(self.low[place]), float(self.high[place])
        # The vector and the scalar code of one operation may round differently.
        near = 4 * torch.finfo(self.low.dtype).eps * max(abs(low), abs(high))
        return (low + high) / 2 if high - low <= near else None


def observed(model: nn.Module, run: Callable[[], object]) -> dict[nn.Module, Seen]:
    """The input channels of the layers of a model in one run."""
    found: dict[nn.Module, Seen] = {}

    def see(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach()
        axis = x.ndim - 1 - (len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0)
        rows = x.movedim(axis, 0).flatten(1)
        calls = found[layer].calls if layer in found else 0
        found[layer] = Seen(calls + 1, rows.amin(dim=1), rows.amax(dim=1))

    hooks = [m.register_forward_pre_hook(see) for m in model.modules() if mixes_channels(m)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found
