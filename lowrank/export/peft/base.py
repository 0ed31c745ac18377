"""The dense model that an adapter belongs to: compared with an adapted one, and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from lowrank.factorizations import Dense
from lowrank.factorizations.adapted import taken_apart
from lowrank.files.atomic import replacing
from lowrank.files.digest import tensors_hash
from lowrank.model.contents import names_of, split_extra
from lowrank.model.copying import copied
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.layers import rule_for
from lowrank.model.sites import Use, replace_module, stand_in


def fingerprint(matrix: Tensor) -> str:
    """The hash of a matrix (out, in) in its dtype: 32 hexadecimal digits."""
    return tensors_hash({"": matrix})


def tensors_of(model: nn.Module, base: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model by the names that they have in its dense base.

    Those of an adapted layer's weight are left out.

    Raises:
        ValueError: the model has others than the base, or of other shapes.
    """
    wanted, _ = split_extra(base.state_dict())
    own, _ = split_extra(model.state_dict())
    for name, layer in model.named_modules(remove_duplicate=False):
        if not isinstance(layer, FactorizedLayer):
            continue
        for inner in layer.factorization.state_dict():
            own.pop(_join(name, f"factorization.{inner}"), None)
        module = module_of(base, name)
        rule = rule_for(module)
        if rule is None:
            raise ValueError(f"layer '{name}' is a {type(module).__name__} in the base")
        weight = _join(name, rule.parameter)
        wanted_weight = wanted.pop(weight)
        if isinstance(layer.factorization, Dense):
            matrix = layer.factorization.weight.detach()
            own[weight] = rule.as_weight(module, matrix, layer.view)
            wanted[weight] = wanted_weight
    missing, surplus = sorted(wanted.keys() - own.keys()), sorted(own.keys() - wanted.keys())
    if missing or surplus:
        raise ValueError(
            f"the base is no dense model of the same architecture: the model lacks its "
            f"{names_of(missing)} and has {names_of(surplus)} besides"
        )
    for name, tensor in own.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"'{name}' is {tuple(tensor.shape)} in the model and {tuple(wanted[name].shape)} "
                "in the base: give the base that it was adapted from"
            )
    return own


def changed(tensors: Mapping[str, Tensor], base: nn.Module) -> list[str]:
    """The names of those tensors that the base has other numbers in."""
    own, _ = split_extra(base.state_dict())
    return [
        name
        for name, tensor in tensors.items()
        if tensor.dtype != own[name].dtype or not torch.equal(tensor.to(own[name]), own[name])
    ]


def write_base(base: nn.Module, matrices: Mapping[str, Tensor], folder: Path) -> None:
    """Write the base with other weights into a new folder.

    A model of `transformers` is written as it writes itself, any other as ``model.safetensors``,
    which `safetensors.torch.load_model` reads.

    Args:
        matrices: (out, in), of layers by name.
    """
    model = copied(base).model
    with torch.no_grad():
        for name, matrix in matrices.items():
            module = model.get_submodule(name)
            rule = rule_for(module)
            assert rule is not None
            rule.weight(module).copy_(rule.as_weight(module, matrix, "channel"))
    folder.mkdir()
    write_model(model, folder)


def with_forms(base: nn.Module, layers: Mapping[str, FactorizedLayer]) -> nn.Module:
    """The base with the frozen bases of adapted layers, in their forms, in the place of its own.

    Args:
        layers: by name; not changed.
    """
    model = copied(base).model
    for name, layer in layers.items():
        module = model.get_submodule(name)
        rule = rule_for(module)
        assert rule is not None
        form = taken_apart(layer.factorization).base
        new = stand_in(Use(name, rule, module), module, form, layer.view)
        model = replace_module(model, module, new)
    return model


def write_model(model: Any, folder: Path) -> None:
    """Write a dense model in the way of its library."""
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
        return
    with replacing(folder / "model.safetensors") as file:
        save_model(model, str(file))


def module_of(base: nn.Module, name: str) -> nn.Module:
    """The layer of the base.

    Raises:
        ValueError: it has none of that name.
    """
    try:
        return base.get_submodule(name)
    except AttributeError:
        raise ValueError(f"the base has no layer '{name}', which the model has adapted") from None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
