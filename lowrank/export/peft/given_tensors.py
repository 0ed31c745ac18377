"""The tensors of a folder's file, by what they are, compared with the model before any is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lowrank.export.peft.attention import check_inside
from lowrank.export.peft.config import PREFIX
from lowrank.export.peft.given_config import GivenConfig
from lowrank.export.peft.kinds import LENGTHS
from lowrank.export.peft.layouts import LAYOUTS, Shape
from lowrank.export.peft.matching import saved
from lowrank.export.peft.target import HostLayer, outside
from lowrank.model.contents import names_of, split_extra

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WEIGHT, WRAPPED = "base_layer.weight", "base_layer"
# Beside the biases of a module that is saved whole PEFT writes those that it leaves unused.
UNUSED = ("original_module", "modules_to_save")


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

    @property
    def keys(self) -> set[str]:
        """The names in the file of all of them, without those that nothing uses."""
        inner = {key for keys in self.layers.values() for key in keys.values()}
        return inner.union(self.others.values(), self.shared.values())


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
    ends = (*layout.ends, LENGTHS, WEIGHT)
    paths: dict[str, dict[str, str]] = {}
    named: dict[str, str] = {}
    rest: dict[str, TensorEntry] = {}
    for key in stored:
        name = key.removeprefix(PREFIX)
        end = next((end for end in ends if name.endswith(f".{end}")), None)
        if name == key:
            rest[key] = stored[key]
        elif end is None:
            named[name] = key
        else:
            paths.setdefault(name.removesuffix(f".{end}"), {})[end] = key
    known = {target.path: target for target in targets.values()}
    layers: dict[str, dict[str, str]] = {}
    for path, keys in paths.items():
        target = known.get(path)
        if target is None:
            raise ValueError(_why_none(path, targets))
        layers[target.name] = keys
        try:
            found = {end: stored[key] for end, key in keys.items() if end != WEIGHT}
            check_shapes(found, layout.shapes(config, target))
            check_inside(target.name, target.owner, paths, config.version)
        except ValueError as error:
            raise ValueError(f"layer '{target.name}': {error}") from error
    shared = layout.shared(config, [targets[layer] for layer in layers]) if layers else {}
    check_shapes(rest, shared)
    others = _others(model, config, [targets[layer] for layer in layers], stored, named)
    return Given(layers, others, {name: name for name in rest})


def _why_none(path: str, targets: Mapping[str, HostLayer]) -> str:
    """Why there is no layer for an adapter at a path in PEFT's model."""
    if path in targets:
        return (
            f"it adapts '{path:.200}', which '{targets[path].owner}' reads and never calls, so "
            "that PEFT leaves it out: of an attention it adapts both projections, by the name of "
            "the attention, or none"
        )
    return f"it adapts '{path:.200}', which is no layer with a weight in the model"


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


def _others(
    model: nn.Module,
    config: GivenConfig,
    adapted: Collection[HostLayer],
    stored: Mapping[str, TensorEntry],
    named: Mapping[str, str],
) -> dict[str, str]:
    """The tensors of the model that a file has beside factors, by their names in the model: those
    of the modules that are saved whole, and biases.

    Args:
        named: by what is behind the prefix.

    Raises:
        ValueError: others, or not all of them, or of another shape.
    """
    own, _ = split_extra(model.state_dict())
    whole = [f"{module}." for module in saved(config.saved, outside(model))]
    wanted = {name for name in own if name.startswith(tuple(whole))} if whole else set()
    # Of the layers that PEFT wraps, what they hold beside the weight, by its path in PEFT's model.
    wrapped = {
        f"{layer.path}.{WRAPPED}.{name}": f"{layer.name}.{name}"
        for layer in adapted
        for name, _ in layer.module.named_parameters(recurse=False)
        if config.has_biases and (layer.rule is None or name != layer.rule.parameter)
    }
    inside = set(wrapped.values())
    biases = {name for name in own if config.has_all_biases and _is_bias(name)}
    biases |= {name for name in inside if _is_bias(name)}
    allowed = wanted | biases | inside
    if config.has_all_biases:
        # What earlier versions of PEFT took for biases.
        allowed |= {name for name in own if "bias" in name}
    unused = {f"{module}{end}." for module in whole for end in UNUSED if config.has_all_biases}
    found = {
        wrapped.get(name, name): key
        for name, key in named.items()
        if not (_is_bias(name) and name.startswith(tuple(unused)))
    }
    # PEFT does not look for those of a wrapped layer by its own name.
    unknown = sorted((found.keys() - allowed) | (named.keys() & inside))
    missing = sorted((wanted | biases) - found.keys())
    if unknown:
        raise ValueError(
            f"'{unknown[0]:.200}' is a part of the adapter that is not known here: no factor, no "
            f"bias of the model that the config's bias means, and not of "
            f"modules_to_save={names_of(config.saved)} in the model"
        )
    if missing:
        raise ValueError(
            f"the file lacks '{missing[0]}', a bias that the config says it has, or a part of "
            f"modules_to_save={names_of(config.saved)}"
        )
    for name, key in found.items():
        one, shape, dtype = stored[key], tuple(own[name].shape), own[name].dtype
        allowed_types = FLOATS if own[name].is_floating_point() else (dtype,)
        if one.shape != shape or one.dtype not in allowed_types:
            raise ValueError(
                f"'{name}' is {one.shape} {one.dtype} in the file and {shape} {dtype} in the model"
            )
    return found


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"
