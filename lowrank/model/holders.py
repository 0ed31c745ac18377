"""Further references to a module or weight, through which the dense layer would still run."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from lowrank.model.shared_memory import identity

# Attributes of `nn.Module` that hold its parts, which are replaced; its hooks, which are moved to
# the new layer; and the result of `nn.Module.compile`, which no copy keeps.
OWN = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
PLAIN = (str, bytes, int, float, complex, bool, type(None), type, ModuleType)


def held_weights(model: nn.Module) -> dict[Hashable, str]:
    """The holder of each weight that is referenced outside its module's path.

    The layer that replaces a module is found by the module's path. A list of modules, a stored
    method, or a closure set as the `forward` of an instance would go on running the original
    module, or the whole original model.

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
    """The weights that are reachable from an object and would stay uncompressed there.

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
            # A copy has its own objects; only a replaced module itself differs from the new layer.
            yield from value.parameters(recurse=is_original)
        else:
            left += [(part, is_original or shared) for part, shared in _parts(value)]


def _parts(value: Any) -> Iterator[tuple[Any, bool]]:
    """The objects that an object references, and whether a copy of it references the same ones."""
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
        # Only globals that are models: a library's functions refer to everything.
        named = (value.__globals__.get(name) for name in value.__code__.co_names)
        yield from ((part, True) for part in named if _is_of_model(part))
    elif isinstance(value, functools.partial):
        yield from ((part, False) for part in (value.func, *value.args, *value.keywords.values()))
    else:
        yield from ((part, False) for part in getattr(value, "__dict__", {}).values())


def _is_of_model(value: Any) -> bool:
    return isinstance(value, nn.Module | MethodType)
