"""A copy of a model, on tensors that are shared or its own."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lowrank.model.shared_memory import identity, overlapping, place


class Copied(NamedTuple):
    """A copy of a model.

    Attributes:
        model: the copy.
        of: what each module of the model became, by its `id`.
    """

    model: Any
    of: dict[int, Any]


def copied(
    model: nn.Module, shared: Iterable[Tensor] = (), instead: Mapping[int, Any] | None = None
) -> Copied:
    """A deep copy of a model; tensors that are, or overlap in, one memory do so in the copy.

    A tensor that a module keeps of a run, such as an activation or the weight of `weight_norm`, is
    copied without its gradient history.

    Args:
        shared: tensors that the copy uses too.
        instead: by the `id` of a tensor, what the copy has in its place.

    Raises:
        ValueError: something in the model that cannot be copied.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared} | dict(instead or {})
    _copy_tied(model, memo)
    for module in model.modules():
        for value in tree_leaves(vars(module)):
            if isinstance(value, Tensor) and not value.is_leaf and id(value) not in memo:
                memo[id(value)] = value.detach().clone()
    try:
        return Copied(copy.deepcopy(model, memo), memo)
    except Exception as error:  # Whatever the code of others raises.
        raise ValueError(
            f"the model, {type(model).__name__}, holds something that cannot be copied: {error}. "
            "Take it away, and set it again afterwards"
        ) from error


def _copy_tied(model: nn.Module, memo: dict[int, Any]) -> None:
    """Copy the parameters and buffers whose memory others have too, which a deep copy would part.

    Args:
        memo: of the deep copy; what is in it is not copied.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    tensors = {name: tensor for name, tensor in named if id(tensor) not in memo}
    counts: dict[Hashable, int] = {}
    for tensor in tensors.values():
        counts[identity(tensor)] = counts.get(identity(tensor), 0) + 1
    apart, storages = overlapping(tensors), dict[Hashable, Any]()
    for name, tensor in tensors.items():
        if counts[identity(tensor)] == 1 and name not in apart:
            continue
        where = place(tensor)
        if where not in storages:
            storages[where] = tensor.untyped_storage().clone()
        own = storages[where]
        new = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        new.set_(own, tensor.storage_offset(), tensor.shape, tensor.stride())
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new
