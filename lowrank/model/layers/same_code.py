"""Whether a subclass of a layer computes what the layer computes, by the traces of their code."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node, Tracer

PLAIN = (bool, int, float, str, tuple, type(None), torch.dtype)
# The parts of a module that `nn.Module` itself keeps.
KEPT = frozenset(vars(nn.Module()))
MATMUL = (operator.matmul, torch.matmul, "matmul")
ADD = (operator.add, torch.add, "add")
# What was found, by the class, its parent, its code and all that tracing sees of a module.
FOUND: WeakKeyDictionary[type[nn.Module], dict[Any, bool]] = WeakKeyDictionary()
TURNED = (("T",), ("mT",), ("t",), ("transpose", 0, 1), ("transpose", 1, 0), ("transpose", -1, -2))


def same_computation(module: nn.Module, known: type[nn.Module]) -> bool:
    """Whether the code of a module's class computes what that of `known` does, but for rounding.

    Both are traced with symbols for inputs and parameters, in training and in evaluation; nothing
    is computed. The own code must reach the output by the same operations, where x @ Wᵀ + b is
    `F.linear(x, W, b)`, and do nothing besides. Code that branches on its input, or reads
    attributes that are no plain values, is not traced, and taken for other code.
    """
    plain = sorted((name, value) for name, value in _plain(module).items() if name not in KEPT)
    absent = [name for name, value in module._parameters.items() if value is None]
    code = getattr(type(module).forward, "__code__", None)  # Functions would hold their class.
    key = (known, code, repr((plain, absent)))
    found = FOUND.setdefault(type(module), {})
    if key not in found:
        found[key] = _computes_same(module, known)
    return found[key]


def _computes_same(module: nn.Module, known: type[nn.Module]) -> bool:
    """As `same_computation`, which remembers it."""
    return all(
        (own := _traced(module, type(module), mode)) is not None
        and own == _traced(module, known, mode)
        for mode in (True, False)
    )


def _traced(module: nn.Module, cls: type[nn.Module], training: bool) -> Any:
    """What the output is computed from, as nested tuples; None if it cannot be traced."""
    double = cls.__new__(cls)
    double.__dict__.update(_plain(module) | {"training": training})
    before = dict(vars(double))
    try:
        defaults = {
            name: one.default
            for name, one in inspect.signature(double.forward).parameters.items()
            if one.default is not inspect.Parameter.empty
        }
        graph = Tracer().trace(double, concrete_args=defaults or None)
    except Exception:  # Code of others may fail in any way on symbols.
        return None
    return _meaning(graph) if vars(double) == before else None


def _plain(module: nn.Module) -> dict[str, Any]:
    """The attributes without lists and objects of others, which tracing would change."""
    return {n: v for n, v in vars(module).items() if n in KEPT or isinstance(v, PLAIN)}


def _meaning(graph: Graph) -> Any:
    """The output of a graph; None if it does something that the output does not depend on."""
    meanings: dict[Node, Any] = {}
    output: Any = None
    for node in graph.nodes:
        if node.op == "placeholder":
            meanings[node] = ("input", len(meanings))
        elif node.op == "get_attr":
            meanings[node] = ("own", node.target)
        elif node.op == "output":
            output = _filled(node.args[0], meanings)
        elif node.target is torch._assert or node.users:
            meanings[node] = _product(node, meanings)
        else:
            return None
    return output


def _filled(value: Any, meanings: Mapping[Node, Any]) -> Any:
    if isinstance(value, Node):
        return meanings[value]
    if isinstance(value, list | tuple):
        return tuple(_filled(part, meanings) for part in value)
    if isinstance(value, dict):
        return tuple((name, _filled(part, meanings)) for name, part in sorted(value.items()))
    return value


def _product(node: Node, meanings: Mapping[Node, Any]) -> Any:
    """The meaning of an operation, products with a transposed matrix as `F.linear`."""
    args, target = _filled(node.args, meanings), node.target
    if target is F.linear:
        named = dict(zip(("input", "weight", "bias"), args, strict=False)) | {
            name: _filled(value, meanings) for name, value in node.kwargs.items()
        }
        return ("linear", named["input"], named["weight"], named.get("bias"))
    if not node.kwargs:
        called = args[1:] if target is getattr else (target, *args[1:])
        if called in TURNED:
            return ("turned", args[0])
        if target in MATMUL and args[1][:1] == ("turned",):
            return ("linear", args[0], args[1][1], None)
        if target in ADD:
            for one, other in (args, args[::-1]):
                is_product = isinstance(one, tuple) and one[:1] == ("linear",) and one[3] is None
                if is_product and other == ("own", "bias"):
                    return (*one[:3], other)
    return (target, args, _filled(dict(node.kwargs), meanings))
