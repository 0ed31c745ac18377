"""Save and load a compressed model: one safetensors file, its structure as JSON in the header.

Never pickle. What is stored is what is counted and what is run: a loaded model gives the outputs of
the saved one bit for bit, and the file less its header has `lowrank.measure.size.nbytes` bytes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowrank.atomic import replacing
from lowrank.factorizations import rebuild
from lowrank.factorized import FactorizedLayer
from lowrank.layers import rule_for
from lowrank.measure.size import identity
from lowrank.sites import replace_module

FORMAT = 1


def save(model: nn.Module, path: str | Path) -> None:
    """Write a compressed (or dense) model to `path`, whole or not at all.

    Tensors that several modules share are stored once.
    """
    from safetensors.torch import save_file

    tensors, aliases = _unique(model)
    structure = {
        "format": FORMAT,
        "layers": _layers(model),
        "aliases": aliases,
        "frozen": sorted(n for n, p in model.named_parameters() if not p.requires_grad),
    }
    with replacing(Path(path)) as file:
        save_file(tensors, file, metadata={"format": "pt", "lowrank": json.dumps(structure)})


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """The model saved at `path`, built on the architecture of the dense `model`.

    Args:
        model: a dense model of the same architecture, whatever its weights; it is not changed.

    Raises:
        ValueError: the file is not of this library, or does not fit the architecture.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error
    if "lowrank" not in header:
        raise ValueError(f"{path} holds no model saved by lowrank.checkpoint.save")
    structure = json.loads(header["lowrank"])
    if structure["format"] != FORMAT:
        raise ValueError(f"{path} has format {structure['format']}, this version reads {FORMAT}")
    model = _rebuild_layers(copy.deepcopy(model), structure["layers"])
    tensors |= {alias: tensors[name] for alias, name in structure["aliases"].items()}
    _check_fit(model.state_dict(), tensors)
    model.load_state_dict(tensors)
    for alias, name in structure["aliases"].items():
        _tie(model, alias, name)
    frozen = set(structure["frozen"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return model


def _tie(model: nn.Module, alias: str, name: str) -> None:
    """Make one tensor again of two names that were one, such as a basis that layers share."""
    (path, _, own), (source, _, theirs) = alias.rpartition("."), name.rpartition(".")
    module, other = model.get_submodule(path), model.get_submodule(source)
    for store, stored in (
        (module._parameters, other._parameters),
        (module._buffers, other._buffers),
    ):
        if own in store and theirs in stored:
            store[own] = stored[theirs]  # type: ignore[assignment]


def _unique(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a model, each once, and the further names of those that have several."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[Hashable, str] = {}
    for name, tensor in model.state_dict().items():
        # Empty tensors have no address of their own.
        key = identity(tensor)
        if tensor.numel() and key in names:
            aliases[name] = names[key]
        else:
            names[key] = name
            tensors[name] = tensor.contiguous()
    return tensors, aliases


def _layers(model: nn.Module) -> list[dict[str, Any]]:
    """The factorizations of a model and the modules that use each."""
    layers: dict[int, dict[str, Any]] = {}
    for name, module in model.named_modules():
        if isinstance(module, FactorizedLayer):
            factorization = module.factorization
            layer = {"config": factorization.config(), "view": module.view, "modules": []}
            layers.setdefault(id(factorization), layer)["modules"].append(name)
    return list(layers.values())


def _rebuild_layers(model: nn.Module, layers: list[dict[str, Any]]) -> nn.Module:
    for layer in layers:
        factorization = rebuild(layer["config"])
        for name in layer["modules"]:
            try:
                module = model.get_submodule(name)
            except AttributeError:
                raise ValueError(
                    f"the model has no module '{name}', which the file holds"
                ) from None
            rule = rule_for(module)
            if rule is None:
                raise ValueError(f"'{name}' is a {type(module).__name__}, which holds no weight")
            factorization.to(rule.weight(module).device)
            model = replace_module(model, module, rule.build(module, factorization, layer["view"]))
    return model


def _check_fit(own: dict[str, torch.Tensor], saved: dict[str, torch.Tensor]) -> None:
    missing, surplus = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
    if missing or surplus:
        raise ValueError(
            f"the file does not fit the model: it lacks {missing} and has {surplus} besides"
        )
    for name, tensor in own.items():
        other = saved[name]
        if tensor.shape != other.shape or tensor.dtype != other.dtype:
            raise ValueError(
                f"'{name}' is {tuple(other.shape)} {other.dtype} in the file and "
                f"{tuple(tensor.shape)} {tensor.dtype} in the model"
            )
