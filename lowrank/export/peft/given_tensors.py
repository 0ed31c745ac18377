"""The tensors of a folder's file, by what they are, compared with the model before any is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lowrank.export.peft.config import PREFIX
from lowrank.export.peft.given_config import GivenConfig
from lowrank.export.peft.kinds import LENGTHS
from lowrank.export.peft.layouts import LAYOUTS, Shape
from lowrank.export.peft.matching import saved
from lowrank.export.peft.target import HostLayer, outside
from lowrank.model.contents import names_of, split_extra

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WEIGHT, BIAS = "base_layer.weight", "base_layer.bias"


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a file; its dtype is None if it is not known."""

    shape: Shape
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Given:
    """The names of tensors in a file.

    Attributes:
        layers: of each adapted layer's tensors, by the ends of their names.
        others: of tensors of the model, by their names in it.
        shared: of those that belong to all layers.
    """

    layers: dict[str, dict[str, str]]
    others: dict[str, str]
    shared: dict[str, str]


def sorted_out(
    model: nn.Module,
    config: GivenConfig,
    targets: Mapping[str, HostLayer],
    stored: Mapping[str, TensorEntry],
) -> Given:
    """What each tensor of a file is.

    Raises:
        ValueError: one that is not known, is missing, or has another shape than the model's layer
            and the config's rank say.
    """
    layout = LAYOUTS[config.kind]
    ends = (*layout.ends, LENGTHS, WEIGHT, BIAS)
    layers: dict[str, dict[str, str]] = {}
    others: dict[str, str] = {}
    rest: dict[str, TensorEntry] = {}
    for key in stored:
        name = key.removeprefix(PREFIX)
        end = next((end for end in ends if name.endswith(f".{end}")), None)
        layer = name.removesuffix(f".{end}")
        if name == key:
            rest[key] = stored[key]
        elif end == BIAS and config.has_biases:
            others[f"{layer}.bias"] = key
        elif end is None or end == BIAS:
            others[name] = key
        else:
            layers.setdefault(layer, {})[end] = key
    for layer, keys in layers.items():
        if layer not in targets:
            raise ValueError(
                f"it adapts '{layer:.200}', which is no layer with a weight in the model"
            )
        try:
            found = {end: stored[key] for end, key in keys.items() if end != WEIGHT}
            check_shapes(found, layout.shapes(config, targets[layer]))
        except ValueError as error:
            raise ValueError(f"layer '{layer}': {error}") from error
    shared = layout.shared(config, [targets[layer] for layer in layers]) if layers else {}
    check_shapes(rest, shared)
    biases = {f"{layer}.bias" for layer in layers}
    _check_others(model, config, {name: stored[key] for name, key in others.items()}, biases)
    return Given(layers, others, {name: name for name in rest})


def check_shapes(stored: Mapping[str, TensorEntry], wanted: Mapping[str, Shape]) -> None:
    """Raise ValueError unless these are the tensors that are wanted, of floating-point numbers."""
    if stored.keys() != wanted.keys():
        hint = "" if wanted else f": PEFT's names of the parts of layers begin with '{PREFIX}'"
        raise ValueError(
            f"the file has {names_of(sorted(stored))} where {names_of(sorted(wanted))} belong{hint}"
        )
    for end, one in stored.items():
        if one.dtype not in FLOATS:
            raise ValueError(f"{end} is of {one.dtype}, and not of one of {FLOATS}")
        if one.shape != wanted[end]:
            raise ValueError(
                f"{end} is {one.shape}, and {wanted[end]} for the model and the rank of the "
                "config: it is of another base, or damaged"
            )


def _check_others(
    model: nn.Module, config: GivenConfig, stored: Mapping[str, TensorEntry], biases: set[str]
) -> None:
    """Raise ValueError unless these are all tensors of the modules that are saved whole, and biases
    of adapted layers."""
    own, _ = split_extra(model.state_dict())
    whole = saved(config.saved, outside(model))
    inside = tuple(f"{module}." for module in whole)
    wanted = {name for name in own if name.startswith(inside)} if inside else set()
    if config.has_biases:
        wanted |= biases & own.keys()
    unknown, missing = sorted(stored.keys() - wanted), sorted(wanted - stored.keys())
    if unknown:
        raise ValueError(
            f"'{unknown[0]:.200}' is a part of the adapter that is not known here: no factor, and "
            f"not of modules_to_save={names_of(config.saved)} in the model"
        )
    if missing:
        raise ValueError(
            f"the file lacks '{missing[0]}', a bias of an adapted layer or a part of "
            f"modules_to_save={names_of(config.saved)}"
        )
    for name, one in stored.items():
        shape, dtype = tuple(own[name].shape), own[name].dtype
        allowed = FLOATS if own[name].is_floating_point() else (dtype,)
        if one.shape != shape or one.dtype not in allowed:
            raise ValueError(
                f"'{name}' is {one.shape} {one.dtype} in the file and {shape} {dtype} in the model"
            )
