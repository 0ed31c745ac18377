"""Tensors in nested tuples, lists and mappings, by their places."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a value that is no container, with its place: ``input_ids``, ``[1]``."""
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
        changed: Any = copy.copy(value)  # Some are of classes that are not made from a mapping.
        for key, part in value.items():
            changed[key] = with_tensors(part, change)
        return changed
    if isinstance(value, list | tuple):
        parts = [with_tensors(part, change) for part in value]
        is_named = isinstance(value, tuple) and type(value) is not tuple
        return type(value)(*parts) if is_named else type(value)(parts)
    return value


def fresh(value: Any) -> Any:
    """A value with copies of its tensors, for a model may write into those that it is given."""
    return with_tensors(value, torch.clone)


def joined(values: list[Any]) -> Any:
    """Values of one structure as one, their tensors joined along the first axis.

    A scalar, or what is no tensor, is that of the first value.
    """
    others = [iter(tensors(value)) for value in values]

    def join(_: Tensor) -> Tensor:
        parts = [next(other) for other in others]
        return torch.cat(parts) if parts[0].ndim else parts[0]

    return with_tensors(values[0], join)
