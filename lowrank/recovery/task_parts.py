"""The two parts of a model that was trained for a task: the base, which stayed as it was and is
stored once for all tasks of it, and the task's own.

A task's own are the parameters that require a gradient, whatever they are, and the tensors that the
training changed without one, such as the running statistics of BatchNorm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lowrank.files.digest import tensors_hash
from lowrank.model.contents import Contents, contents
from lowrank.numerics.memo import fingerprint
from lowrank.numerics.storage import stored_bytes


def fingerprints(model: nn.Module) -> dict[str, str]:
    """A hash of each stored tensor, by name, each memory once."""
    return {name: number_hash(tensor) for name, tensor in contents(model).tensors.items()}


def number_hash(tensor: Tensor) -> str:
    """A hash of the numbers, the shape and the dtype of a tensor, on whatever device it is."""
    return fingerprint(tensor.cpu())


def trained_names(model: nn.Module, found: Contents) -> set[str]:
    """The names, in its contents, of the parameters that require a gradient."""
    named = model.named_parameters(remove_duplicate=False)
    return {found.owner(name) for name, parameter in named if parameter.requires_grad}


def sharing(model: nn.Module, before: Mapping[str, str]) -> dict[str, Any]:
    """What a trained model shares with the models of other tasks of its base, for a record.

    Args:
        before: `fingerprints` of the model before the training.

    Returns:
        "shared_bytes" of the base, its "shared_hash" (`tensors_hash`), and "own_bytes", all that is
        stored besides: of the task's own part.
    """
    found = contents(model)
    own = trained_names(model, found)
    base = {
        name: tensor
        for name, tensor in found.tensors.items()
        if name not in own and before.get(name) == number_hash(tensor)
    }
    shared = total_bytes(base.values())
    return {
        "shared_bytes": shared,
        "shared_hash": tensors_hash(base),
        "own_bytes": total_bytes(found.stored) - shared,
    }


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """The bytes that tensors take in a file."""
    return sum(map(stored_bytes, tensors))
