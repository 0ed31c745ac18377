"""Who else holds a module or a weight: code that would run it as it was before compression."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from lowrank.model.shared_memory import identity

# Of `nn.Module`: its parts, which are replaced; hooks, which move along; and what
# `nn.Module.compile` leaves, which no copy keeps.
OWN = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
PLAIN = (str, bytes, int, float, complex, bool, type(None), type, ModuleType)


def held_weights(model: nn.Module) -> dict[Hashable, str]:
    """Of each weight that something else of the model holds, who does.

    A stand-in is found by the path of the module that it replaces. A list of modules, a stored
    method, or a `forward` that was set on an instance and is a closure, goes on with the module, or
    with the whole model, as it was.

    Returns:
        By the identity of the memory (see `identity`), the path of the holder.
    """
    found: dict[Hashable, str] = {}
    seen: set[tuple[int, bool]] = set()
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in OWN:
                where = f"{path}.{name}" if path else name
                for weight in _weights(value, seen):
                    found.setdefault(identity(weight), where)
    return found


def _weights(held: Any, seen: set[tuple[int, bool]]) -> Iterator[Tensor]:
    """The weights that would stay as they are, in what is held.

    Args:
        seen: by its `id`, what was looked into already, alone or in something that a copy of the
            model shares; filled.
    """
    left = [(held, False)]
    while left:
        value, is_original = left.pop()
        if isinstance(value, PLAIN) or (id(value), is_original) in seen:
            continue
        seen.add((id(value), is_original))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, nn.Module):
            # Of a copy only what itself is replaced is another one than the stand-in.
            yield from value.parameters(recurse=is_original)
        else:
            left += [(part, is_original or shared) for part, shared in _parts(value)]


def _parts(value: Any) -> Iterator[tuple[Any, bool]]:
    """What an object holds, and whether a copy of the object holds the same."""
    if isinstance(value, Mapping):
        yield from ((part, False) for part in (*value.keys(), *value.values()))
    elif isinstance(value, list | tuple | AbstractSet):
        yield from ((part, False) for part in value)
    elif isinstance(value, MethodType):
        yield value.__self__, False
        yield from _parts(value.__func__)
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents, True
            except ValueError:  # It is filled later.
                continue
        yield from ((part, True) for part in value.__defaults__ or ())
        yield from ((part, True) for part in (value.__kwdefaults__ or {}).values())
        # Of globals only models themselves, for a library's functions lead everywhere.
        named = (value.__globals__.get(name) for name in value.__code__.co_names)
        yield from ((part, True) for part in named if _is_of_model(part))
    elif isinstance(value, functools.partial):
        yield from ((part, False) for part in (value.func, *value.args, *value.keywords.values()))
    else:
        yield from ((part, False) for part in getattr(value, "__dict__", {}).values())


def _is_of_model(value: Any) -> bool:
    return isinstance(value, nn.Module | MethodType)
