"""Nested results with tensors in them, as JSON and tensors by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# The package whose named tuples may be made when a file is read.
OWN = "lowrank."


def to_tree(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for `from_tree`; its tensors are added to `tensors`, each once.

    Raises:
        ValueError: something else than tensors, numbers, texts, None, tuples, lists and mappings
            with texts as keys.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if type(value) is Tensor:
        return _entry(value, tensors)
    if isinstance(value, tuple | list):
        parts = [to_tree(part, tensors) for part in value]
        if hasattr(value, "_fields") and type(value).__module__.startswith(OWN):
            return {"named": [type(value).__module__, type(value).__name__], "parts": parts}
        return {"list" if isinstance(value, list) else "tuple": parts}
    if type(value) is dict and all(isinstance(name, str) for name in value):
        return {"mapping": [[name, to_tree(part, tensors)] for name, part in value.items()]}
    raise ValueError(f"a {type(value).__name__} cannot be kept")


def from_tree(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `to_tree` was given; runs no code but that of lowrank's named tuples.

    Raises:
        ValueError, LookupError, TypeError, RuntimeError: it is none of `to_tree`.
    """
    return _made(tree, tensors, {})


def _made(tree: Any, tensors: Mapping[str, Tensor], shared: dict[str, Tensor]) -> Any:
    """The same; what occurs twice is one tensor, as it was."""
    match dict(tree):
        case {"value": value}:
            return value
        case {"tensor": name, "order": order, "device": device}:
            if str(tree) not in shared:
                axes = [order.index(axis) for axis in range(len(order))]
                shared[str(tree)] = tensors[name].permute(axes).to(device)
            return shared[str(tree)]
        case {"named": [module, name], "parts": parts}:
            return _named(module, name)._make(_made(part, tensors, shared) for part in parts)
        case {"list": parts}:
            return [_made(part, tensors, shared) for part in parts]
        case {"tuple": parts}:
            return tuple(_made(part, tensors, shared) for part in parts)
        case {"mapping": parts}:
            return {str(name): _made(part, tensors, shared) for name, part in parts}
    raise ValueError(f"it holds {str(tree)[:80]}, which is nothing that is known")


def nbytes(value: Any) -> int:
    """Bytes of the tensors in a result, each once; 0 for other parts."""
    tensors: dict[str, Tensor] = {}
    try:
        to_tree(value, tensors)
    except ValueError:
        return 0
    return sum(tensor.nbytes for tensor in tensors.values())


def _entry(tensor: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The axes are stored in the order of memory, on which the last bit of a product depends."""
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda axis: -strides[axis])
    permuted = tensor.detach().permute(order)
    place = _place(permuted)
    name = next((name for name, other in tensors.items() if _place(other) == place), None)
    if name is None:
        name = str(len(tensors))
        tensors[name] = permuted
    return {"tensor": name, "order": order, "device": str(tensor.device)}


def _place(tensor: Tensor) -> tuple[Any, ...]:
    memory = (tensor.data_ptr(), tensor.storage_offset()) if tensor.numel() else (id(tensor),)
    return (*memory, tensor.dtype, tensor.shape, tensor.stride(), tensor.device)


def _named(module: str, name: str) -> Any:
    """A class of named tuples of a module of lowrank that is imported already."""
    if not module.startswith(OWN):
        raise ValueError(f"{module} is no module of lowrank")
    found = getattr(sys.modules.get(module), name, None)
    if not isinstance(found, type) or not issubclass(found, tuple) or not hasattr(found, "_make"):
        raise ValueError(f"{module}.{name} is no named tuple")
    return found
