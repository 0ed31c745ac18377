"""Tensors in nested tuples, lists and mappings, each with its place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


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
    """The tensors in a value, in their order."""
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, Tensor)]


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
    return value


def fresh(value: Any) -> Any:
    """A value with copies of its tensors, since a model may write into its inputs."""
    return with_tensors(value, torch.clone)


def joined(values: list[Any]) -> Any:
    """One value made of several of the same structure, with tensors joined along the first axis.

    Scalars and leaves that are no tensors are those of the first value.
    """
    others = [iter(tensors(value)) for value in values]

    def join(_: Tensor) -> Tensor:
        parts = [next(other) for other in others]
        return torch.cat(parts) if parts[0].ndim else parts[0]

    return with_tensors(values[0], join)
