"""Tensors of a folder that take the place of a model's own: whole modules, and biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.export.peft.matching import saved
from lowrank.export.peft.target import outside
from lowrank.model.copying import copied
from lowrank.model.shared_memory import identity


def put(model: nn.Module, modules: Sequence[str], values: Mapping[str, Tensor]) -> None:
    """Put tensors in the place of those of a model, in place, and make them trainable.

    PEFT gives a module that is saved whole a copy of its own, and so parts it from what it is tied
    to. Here it stays tied where all that are tied have the same values.

    Args:
        modules: that are saved whole, as the config names them.
        values: by the names of the tensors in the model.

    Raises:
        ValueError: two values for one tensor.
    """
    for name in _outermost(saved(modules, outside(model)) if modules else []):
        if not _all_equal(_of(model, name), _tensors(model), values):
            around, _, last = name.rpartition(".")
            setattr(model.get_submodule(around), last, copied(model.get_submodule(name)).model)
    state = _tensors(model)
    for names in _tied(state).values():
        given = [name for name in names if name in values]
        for name in given:
            if not torch.equal(values[name], values[given[0]]):
                raise ValueError(
                    f"the file has other numbers for '{name}' than for '{given[0]}', and they are "
                    "one tensor in the model"
                )
    for name, value in values.items():
        state[name].copy_(value)
        if isinstance(state[name], nn.Parameter) and state[name].is_floating_point():
            state[name].requires_grad_(True)


def _all_equal(own: Sequence[str], state: Mapping[str, Any], values: Mapping[str, Tensor]) -> bool:
    """Whether all names of the tensors that a module has, in it and elsewhere, have one value."""
    tied = _tied(state)
    return all(
        other in values and torch.equal(values[other], values[name])
        for name in own
        for other in tied[identity(state[name])]
        if other != name
    )


def _of(model: nn.Module, module: str) -> list[str]:
    return [name for name in _tensors(model) if name.startswith(f"{module}.")]


def _tensors(model: nn.Module) -> dict[str, Any]:
    state = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _tied(state: Mapping[str, Tensor]) -> dict[Any, list[str]]:
    found: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        found.setdefault(identity(tensor), []).append(name)
    return found


def _outermost(names: Sequence[str]) -> list[str]:
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
