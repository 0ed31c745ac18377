"""The tensors of a folder's file, by what they are, compared with the model before any is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lowrank.export.peft.config import PREFIX
from lowrank.export.peft.given_config import GivenConfig
from lowrank.export.peft.kinds import KINDS, Kind
from lowrank.export.peft.matching import saved
from lowrank.export.peft.target import Target
from lowrank.model.contents import split_extra

Shape = tuple[int, ...]
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LENGTHS = "lora_magnitude_vector"
WEIGHT, BIAS = "base_layer.weight", "base_layer.bias"
ENDS = (*dict.fromkeys(end for kind in KINDS.values() for end in (kind.down, kind.up)), LENGTHS)


@dataclass(frozen=True)
class Stored:
    """A tensor of a file; its dtype is None if it is not known."""

    shape: Shape
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Given:
    """The names of tensors in a file.

    Attributes:
        layers: of each adapted layer's tensors, by the ends of their names.
        others: of tensors of the model, by their names in it.
    """

    layers: dict[str, dict[str, str]]
    others: dict[str, str]


def sorted_out(
    model: nn.Module,
    config: GivenConfig,
    targets: Mapping[str, Target],
    stored: Mapping[str, Stored],
) -> Given:
    """What each tensor of a file is.

    Raises:
        ValueError: one that is not known, is missing, or has another shape than the model's layer
            and the config's rank say.
    """
    layers: dict[str, dict[str, str]] = {}
    others: dict[str, str] = {}
    for key in stored:
        if not key.startswith(PREFIX):
            raise ValueError(f"'{key}' is no tensor that PEFT saves with such an adapter")
        name = key.removeprefix(PREFIX)
        end = next((end for end in (*ENDS, WEIGHT, BIAS) if name.endswith(f".{end}")), None)
        layer = name.removesuffix(f".{end}")
        if end in ENDS or end == WEIGHT:
            layers.setdefault(layer, {})[str(end)] = key
        elif end == BIAS and config.has_biases:
            others[f"{layer}.bias"] = key
        else:
            others[name] = key
    for layer, keys in layers.items():
        if layer not in targets:
            raise ValueError(f"it adapts '{layer}', which is no layer with a weight in the model")
        _check_layer(config, targets[layer], {end: stored[key] for end, key in keys.items()})
    biases = {f"{layer}.bias" for layer in layers}
    _check_others(model, config, {name: stored[key] for name, key in others.items()}, biases)
    return Given(layers, others)


def _check_layer(config: GivenConfig, target: Target, stored: Mapping[str, Stored]) -> None:
    name, (out, inner), kind = target.name, target.shape, target.kind
    counted, times = config.rank_of(name), kind.times(target.module)
    rank, rest = divmod(counted, times)
    if rest:
        raise ValueError(
            f"layer '{name}' has rank {counted}, which its {times} groups do not divide"
        )
    if rank > min(out, inner):
        raise ValueError(
            f"layer '{name}' has an adapter of rank {rank}, above the sides of its weight, "
            f"{out} × {inner}"
        )
    for end, one in stored.items():
        if one.dtype not in FLOATS:
            raise ValueError(f"layer '{name}': {end} is of {one.dtype}, and not of one of {FLOATS}")
    wanted = _shapes(kind, target, rank, config.has_lengths)
    given = {end: one.shape for end, one in stored.items() if end != WEIGHT}
    if given.keys() != wanted.keys():
        raise ValueError(f"layer '{name}' has {sorted(given)}, and needs {sorted(wanted)}")
    for end, shape in wanted.items():
        if given[end] != shape:
            raise ValueError(
                f"layer '{name}': {end} is {given[end]}, and {shape} for the weight of {out} × "
                f"{inner} in the model and rank {counted} of the config: it is of another base, or "
                "damaged"
            )


def _shapes(kind: Kind, target: Target, rank: int, has_lengths: bool) -> dict[str, Shape]:
    out, inner = target.shape
    left = torch.empty(out, rank, device="meta")
    right = torch.empty(rank, inner, device="meta")
    tensors = kind.tensors(target.module, left, right)
    if has_lengths:
        tensors[LENGTHS] = kind.magnitudes(torch.empty(out, device="meta"))
    return {end: tuple(tensor.shape) for end, tensor in tensors.items()}


def _check_others(
    model: nn.Module, config: GivenConfig, stored: Mapping[str, Stored], biases: set[str]
) -> None:
    """Raise ValueError unless these are all tensors of the modules that are saved whole, and biases
    of adapted layers."""
    own, _ = split_extra(model.state_dict())
    whole = saved(config.saved, [name for name, _ in model.named_modules()])
    inside = tuple(f"{module}." for module in whole)
    wanted = {name for name in own if name.startswith(inside)} if inside else set()
    if config.has_biases:
        wanted |= biases & own.keys()
    unknown, missing = sorted(stored.keys() - wanted), sorted(wanted - stored.keys())
    if unknown:
        raise ValueError(
            f"'{unknown[0]}' is a part of the adapter that is not known here: it is no factor, and "
            f"not of modules_to_save={list(config.saved)} in the model"
        )
    if missing:
        raise ValueError(f"the file lacks '{missing[0]}' of modules_to_save={list(config.saved)}")
    for name, one in stored.items():
        shape, dtype = tuple(own[name].shape), own[name].dtype
        allowed = FLOATS if own[name].is_floating_point() else (dtype,)
        if one.shape != shape or one.dtype not in allowed:
            raise ValueError(
                f"'{name}' is {one.shape} {one.dtype} in the file and {shape} {dtype} in the model"
            )
