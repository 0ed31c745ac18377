"""The cut model: a smaller one with the same outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lowrank.export.checkpoint import check_module
from lowrank.export.config_sizes import fit_config
from lowrank.export.cutting.channels import (
    KINDS,
    Seen,
    can_fold,
    fold,
    mixes_channels,
    observed,
    zero_inputs,
    zero_outputs,
)
from lowrank.export.cutting.groups import ChannelGroup, Graph
from lowrank.export.formats.traced.example import Example, example_of
from lowrank.export.formats.traced.program import Traced
from lowrank.files.extras import need
from lowrank.model.plain import plain_model

# Of the largest output, in units of the dtype's rounding: sums of fewer terms round differently.
NEAR = 256


@dataclass(frozen=True)
class CutLayer:
    """A layer from which channels were cut.

    Attributes:
        name: of the layer.
        before, after: (outputs, inputs).
    """

    name: str
    before: tuple[int, int]
    after: tuple[int, int]


@dataclass(frozen=True)
class CutModel:
    """A model without the channels that carry nothing.

    Attributes:
        model: the smaller model, in evaluation mode, of PyTorch's own modules.
        cut: the layers that are smaller.
        left: (name, reason) of the layers that have rows or columns of zeros still.
    """

    model: nn.Module
    cut: tuple[CutLayer, ...]
    left: tuple[tuple[str, str], ...]


# Of a layer, and whether of its outputs or its inputs, why they were not cut.
Reasons = dict[tuple[nn.Module, bool], str]


@torch.no_grad()
def cut_model(model: nn.Module, example: Any = None, whole: str | Sequence[str] = ()) -> CutModel:
    """The model of `plain_model` with rows and columns of zeros cut out, and outputs the same.

    A channel is cut where nothing reads it (columns of zeros in all layers that it enters), or
    where all that makes it are rows of zeros, so that it is a constant: zero, or what biases and
    BatchNorm leave, which is added to the biases of the layers that it enters. It is left where
    that would not be exact: a constant that is not zero at the border of a convolution that pads
    with zeros; channels that the model returns, that go through operations in which channels meet
    (softmax, LayerNorm, the heads of attention, convolutions in groups), that are concatenated or
    split, or that meet tensors that Torch-Pruning does not trace. After each cut the outputs are
    compared, and a cut that changes them by more than rounding is undone.

    The config of a model of `transformers` says the new sizes where it can: fields such as
    ``intermediate_size`` are one number for all layers. Where layers are left with different
    sizes it stays as it was, and formats that need the config refuse the model.

    For magnitudes with ``pattern="rows"`` or ``"columns"``, in evaluation: BatchNorm in training
    has other constants.

    Args:
        model: not changed.
        example: inputs: a tensor, a tuple of tensors or a dict of them by name; made of the config
            if none are given, for models of `transformers`. Noise is added to floating ones, so
            that channels which are constant for the example alone are told apart.
        whole: as in `plain_model`.

    Raises:
        ValueError: a model that Torch-Pruning cannot trace, or that does not take the example.
        MissingExtra: Torch-Pruning is not installed.
    """
    need("a smaller dense model", "torch_pruning")
    check_module(model)
    inputs = _varied(example_of(model, example))
    small = _own_parameters(plain_model(model, whole)).eval()
    names = {module: name for name, module in small.named_modules()}
    before = {layer: _size(layer) for layer in names if mixes_channels(layer)}

    def run() -> Any:
        return Traced(small, inputs)(*inputs.tensors)

    try:
        wanted = _tensors(run())
    except Exception as error:  # Whatever the code of the model raises.
        raise ValueError(
            f"{type(model).__name__} does not take the example: {type(error).__name__}: {error}"
        ) from error
    reasons: Reasons = {}
    while _cut_once(small, run, wanted, reasons):
        pass  # A constant that was cut may have made further rows and columns zero.
    cut = [
        CutLayer(names[layer], size, _size(layer))
        for layer, size in before.items()
        if _size(layer) != size
    ]
    left = [(name, why) for layer, name in names.items() if (why := _why_left(layer, reasons))]
    fit_config(small)
    return CutModel(small, tuple(cut), tuple(left))


def _cut_once(
    model: nn.Module,
    run: Callable[[], Any],
    wanted: list[Tensor],
    reasons: Reasons,
) -> bool:
    """Cut what can be cut now; whether that was anything.

    Args:
        reasons: gets why layers keep rows or columns of zeros.
    """
    seen, graph = observed(model, run), Graph(model, run)
    shared = _shared(model)
    any_cut = False
    for group in graph.groups():
        why_not = group.why_not
        if not why_not and any(m in shared or _calls(seen, m) > 1 for m in group.modules):
            why_not = "they are of a layer or weight that is used several times"
        channels, folds, reason = ([], [], why_not) if why_not else _choose(group, seen)
        if channels:
            reason = _try(model, graph, group, channels, folds, run, wanted) or reason
            any_cut = any_cut or not reason.startswith("cutting")
        if reason:
            readers = [*(layer for layer, _ in group.consumers), *group.beyond]
            reasons.update({(layer, True): reason for layer, _ in group.producers})
            reasons.update({(layer, False): reason for layer in readers})
    return any_cut


def _why_left(layer: nn.Module, reasons: Reasons) -> str:
    """Why a layer has rows or columns of zeros still; empty if it has none."""
    if type(layer) not in KINDS:
        return ""
    if not mixes_channels(layer):
        in_groups = "it is a convolution in groups, and rows of those stay"
        return in_groups if zero_outputs(layer).any() else ""
    zeros = ((True, zero_outputs(layer)), (False, zero_inputs(layer)))
    found = [is_output for is_output, are_zero in zeros if are_zero.any()]
    known = [reasons[layer, one] for one in found if (layer, one) in reasons]
    if found and not known:
        return "Torch-Pruning finds nothing that is cut with them"
    return "; ".join(dict.fromkeys(known))


def _calls(seen: dict[nn.Module, Seen], module: nn.Module) -> int:
    return seen[module].calls if module in seen else 0


Fold = tuple[nn.Module, list[int], list[float]]


def _choose(group: ChannelGroup, seen: dict[nn.Module, Seen]) -> tuple[list[int], list[Fold], str]:
    """The outputs of the root to cut, the constants to fold, and why zeros are left."""
    if not group.consumers:
        return [], [], "nothing that Torch-Pruning traces reads them"
    rows = {layer: zero_outputs(layer) for layer, _ in group.producers}
    columns = {layer: zero_inputs(layer) for layer, _ in group.consumers}
    width, reason = _size(group.root)[0], ""
    chosen: list[int] = []
    values: dict[nn.Module, dict[int, float]] = {}
    for channel in range(width):
        read = [
            (layer, place)
            for layer, places in group.consumers
            for place in places.get(channel, ())
            if not columns[layer][place]
        ]
        made = [rows[m][p] for m, places in group.producers for p in places.get(channel, ())]
        if read and not all(made):
            if any(made):
                reason = "they are zero in some of the layers that are added or multiplied only"
            continue
        found = {use: seen[use[0]].constant(use[1]) if use[0] in seen else None for use in read}
        if any(value is None for value in found.values()):
            reason = "they meet values that no layer with zeros makes"
            continue
        if any(value and not can_fold(layer) for (layer, _), value in found.items()):
            reason = "they are a constant that is not zero, and a convolution that pads reads it"
            continue
        if len(chosen) == width - 1:
            reason = "a layer has at least one channel"
            continue
        chosen.append(channel)
        for (layer, place), value in found.items():
            if value:
                values.setdefault(layer, {})[place] = value
    folds = [(layer, list(own), list(own.values())) for layer, own in values.items()]
    return chosen, folds, reason


def _try(
    model: nn.Module,
    graph: Graph,
    group: ChannelGroup,
    channels: list[int],
    folds: list[Fold],
    run: Callable[[], Any],
    wanted: list[Tensor],
) -> str:
    """Cut channels, or leave all as it was and say why."""
    states = [(m, dict(vars(m)), dict(m._parameters), dict(m._buffers)) for m in group.modules]
    try:
        for layer, places, values in folds:
            fold(layer, places, torch.tensor(values, dtype=torch.float64))
        graph.cut(group.root, channels)
        error = _difference(_tensors(run()), wanted)
    except Exception as failure:  # Shapes that do not fit any more, wherever they meet.
        error = f"cutting them breaks the model: {type(failure).__name__}: {failure}"
    if error:
        for module, attributes, parameters, buffers in states:
            vars(module).update(attributes)
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)
    return error


def _difference(found: list[Tensor], wanted: list[Tensor]) -> str:
    for one, other in zip(found, wanted, strict=True):
        if one.shape != other.shape:
            return f"cutting them changes the shape of the outputs to {tuple(one.shape)}"
        if not one.is_floating_point():
            continue
        limit = NEAR * torch.finfo(one.dtype).eps * float(other.abs().max())
        gap = float((one - other).abs().max())
        if not gap <= limit:
            return f"cutting them changes the outputs by {gap:.2g}, above rounding ({limit:.2g})"
    return ""


def _tensors(outputs: Any) -> list[Tensor]:
    return [tensor for tensor in tree_leaves(outputs) if isinstance(tensor, Tensor)]


def _size(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return layer.out_channels, layer.in_channels  # type: ignore[return-value]


def _shared(model: nn.Module) -> set[nn.Module]:
    """The modules that own a parameter which another owns too."""
    users: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), []).append(module)
    return {module for own in users.values() if len(own) > 1 for module in own}


def _varied(example: Example) -> Example:
    """The example with noise on its numbers, of at least two entries along each open axis."""
    wide = example.changed()
    noise = torch.Generator().manual_seed(0)

    def noisy(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor + torch.randn(tensor.shape, generator=noise).to(tensor)

    args = tuple(map(noisy, wide.args))
    return Example(args, {name: noisy(tensor) for name, tensor in wide.kwargs.items()})


def _own_parameters(model: nn.Module) -> nn.Module:
    """The model with parameters of its own on the same memory; those that are one stay one."""
    own: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                new = nn.Parameter(parameter.detach(), parameter.requires_grad)
                module._parameters[name] = own.setdefault(id(parameter), new)
    return model
