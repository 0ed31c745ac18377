"""Tensors in nested tuples, lists and mappings, each with its place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from lowrank.numerics.memo import fingerprint


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested containers, each with its place, such as ``input_ids`` or ``[1]``."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves(part, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from leaves(part, f"{place}[{index}]")
    else:
        yield place, value


def tensors(value: Any) -> list[Tensor]:
    """The tensors in a value, in their order; those in classes that torch's pytrees know too."""
    parts = (part for _, leaf in leaves(value) for part in tree_leaves(leaf))
    return [part for part in parts if isinstance(part, Tensor)]


def hashes(value: Any) -> list[str]:
    """A hash of the numbers of each tensor in a value, in their order, wherever they are."""
    return [fingerprint(tensor.detach().cpu()) for tensor in tensors(value)]


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same containers with other tensors in them."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)  # Some classes of mappings cannot be made from a mapping.
        for key, part in value.items():
            changed[key] = with_tensors(part, change)
        return changed
    if isinstance(value, list | tuple):
        parts = [with_tensors(part, change) for part in value]
        is_named = isinstance(value, tuple) and type(value) is not tuple
        return type(value)(*parts) if is_named else type(value)(parts)
    return tree_map_only(Tensor, change, value)  # Itself, unless torch's pytrees know its class.


def fresh(value: Any) -> Any:
    """A value with copies of its tensors, since a model may write into its inputs."""
    return with_tensors(value, torch.clone)


def examples_of(value: Any, rows: slice) -> Any:
    """Some examples of a value; see `lowrank.model.batch.Batch`."""
    if isinstance(value, Tensor):
        return value[rows] if value.ndim else value
    if isinstance(value, list):
        return value[rows]
    return _each_part([value], lambda parts: examples_of(parts[0], rows))


def joined(values: Sequence[Any]) -> Any:
    """The examples of several values of one structure; see `lowrank.model.batch.Batch`.

    A scalar, or what belongs to no example, is that of the first value.
    """
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values)) if first.ndim else first
    if isinstance(first, list):
        return [entry for value in values for entry in value]
    return _each_part(values, joined)


def shapes(value: Any) -> tuple[Any, ...]:
    """The shapes of tensors that belong to several examples, in their order."""
    if isinstance(value, Tensor):
        return (tuple(value.shape),)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return sum(map(shapes, value), ()) if isinstance(value, tuple) else ()


def _each_part(values: Sequence[Any], change: Callable[[list[Any]], Any]) -> Any:
    """The structure of the first of several values, of each part what `change` makes of it."""
    first = values[0]
    if isinstance(first, Mapping):
        changed: Any = copy.copy(first)
        for name in first:
            changed[name] = change([value[name] for value in values])
        return changed
    if isinstance(first, tuple):
        parts = [change(list(part)) for part in zip(*values, strict=True)]
        return type(first)(*parts) if type(first) is not tuple else tuple(parts)
    return first
