"""Models of PyTorch's own modules: a product becomes modules, one after the other."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache

from torch import Tensor, nn

from lowrank.factorizations import BlockDiagonal, ChannelProduct, Dense, Factorization, Product
from lowrank.factorizations.operations import (
    Convolve,
    Lookup,
    Multiply,
    MultiplyTransposed,
    Operation,
)
from lowrank.model.dense import DenseWeights, with_plain_layers
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.factorized.convolution import ORDINARY, TRANSPOSED, FactorizedConvolution
from lowrank.model.factorized.layer import made

# Methods that run before or outside of a forward pass.
NOT_RUN = frozenset({"__init__", "_init_weights", "reset_parameters", "_reset_parameters"})
RUN_BY_MODULES = (Multiply, MultiplyTransposed, Lookup, Convolve)

Step = tuple[Factorization, Operation]


def plain_model(model: nn.Module, whole: str | Sequence[str] = ()) -> nn.Module:
    """The model in modules of PyTorch alone, low-rank layers as several of them in `nn.Sequential`.

    A product of factors becomes two or more Linear layers or convolutions: of a kernel, one of its
    size and a pointwise one, or one along its first axis and one along the others, as the view of
    its matrix says (Jaderberg et al. 2014); a kernel of Tucker-2 or CP three. A table becomes a
    smaller one and a Linear layer. A factor that is quantized or sparse is multiplied out by
    itself. All else is as in `dense_model`, and so is a layer that `why_whole` names.

    Outputs are those of the model up to rounding. For any tool that takes modules of PyTorch; code
    that reads ``layer.weight`` of a layer that is two has to be named in `whole`, unless
    `why_whole` finds it.

    Args:
        model: not changed; shares its other tensors with the result.
        whole: names of layers, or glob patterns, that stay one module each.

    Raises:
        ValueError: a name or pattern that fits no layer.
    """
    reasons = why_whole(model, whole)

    def module(name: str, layer: FactorizedLayer, weights: DenseWeights) -> nn.Module:
        if name in reasons or isinstance(layer.factorization, Dense):
            return layer.plain(weights.of(layer))
        return _in_sequence(layer, weights)

    return with_plain_layers(model, module)


def why_whole(model: nn.Module, whole: str | Sequence[str] = ()) -> dict[str, str]:
    """Why `plain_model` multiplies a compressed layer out, by name.

    Raises:
        ValueError: a name or pattern that fits no layer.
    """
    patterns = [whole] if isinstance(whole, str) else list(whole)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FactorizedLayer)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(f"whole={pattern!r} fits none of the layers {sorted(layers)}")
    reasons = {}
    for name, layer in layers.items():
        if isinstance(layer.factorization, Dense):
            continue
        chosen = any(fnmatchcase(name, pattern) for pattern in patterns)
        reason = "it was asked for" if chosen else _why_whole(model, name, layer)
        if reason:
            reasons[name] = reason
    return reasons


def _why_whole(model: nn.Module, name: str, layer: FactorizedLayer) -> str:
    steps, form = steps_of(layer), layer.factorization
    if steps[0][0] is form:
        return "no modules of PyTorch hold this form"
    if numbers(steps) >= math.prod(form.shape):
        return "its factors have as many numbers as the matrix"
    reader = _reader(model, name)
    return f"the code of {reader} reads its parts, or calls it with several inputs" * bool(reader)


def steps_of(layer: FactorizedLayer) -> list[Step]:
    """The factors of a layer that are modules of their own, first to act first; one if it is whole.

    A right factor that the groups of a convolution share is repeated for each of them.
    """
    operation = layer.operation
    if operation is None:
        return [(layer.factorization, Multiply())]
    if isinstance(layer, FactorizedConvolution) and not isinstance(layer.padding, str):
        # The modules pad by themselves, each along the axes of its own kernel.
        assert isinstance(operation, Convolve)
        operation = replace(operation, padding=tuple(layer.padding))
    return _steps(layer.factorization, operation)


def numbers(steps: Sequence[Step]) -> int:
    """The weights of the modules of some steps."""
    return sum(math.prod(form.shape) * _repeats(step) for form, step in steps)


def _repeats(step: Operation) -> int:
    return step.shared if isinstance(step, Convolve) else 1


def _steps(form: Factorization, operation: Operation) -> list[Step]:
    inner: list[Step] = []
    if isinstance(form, Product):
        inner = operation.order(list(form.factors))  # type: ignore[arg-type]
    elif isinstance(form, ChannelProduct):
        steps = operation.by_channel(form.positions)
        inner = [] if steps is None else [(form.mixing, steps[0]), (form.core, steps[1])]
    elif isinstance(form, BlockDiagonal):
        rows, width = form.values.shape
        blocks = operation.in_blocks(form.count, (rows // form.count, width))
        inner = [] if blocks is None else [(form.values, blocks)]
    if not inner or not all(isinstance(step, RUN_BY_MODULES) for _, step in inner):
        return [(form, operation)]
    return [part for factor, step in inner for part in _steps(factor, step)]


def _in_sequence(layer: FactorizedLayer, weights: DenseWeights) -> nn.Sequential:
    bias = getattr(layer, "bias", None)
    *first, last = steps_of(layer)
    modules = [_module(layer, step, None, weights) for step in first]
    return nn.Sequential(*modules, _module(layer, last, bias, weights))


def _module(
    layer: FactorizedLayer, step: Step, bias: nn.Parameter | None, weights: DenseWeights
) -> nn.Module:
    """The module that applies one factor.

    Args:
        layer: that the factor is of.
    """
    form, operation = step
    out, width = form.shape
    has_bias = bias is not None
    layout: Callable[[Tensor], Tensor] = lambda matrix: matrix  # noqa: E731
    if isinstance(operation, Lookup):
        module = made(nn.Embedding, out, width, padding_idx=operation.padding_idx)
        module.weight = weights.made(form, layout)
        return module
    if isinstance(operation, Convolve):
        assert isinstance(layer, FactorizedConvolution)
        module = _convolution(layer, operation, form.shape, has_bias)
        copies = (operation.shared, *(1,) * (operation.axes + 1))
        layout = lambda matrix: operation.kernel(matrix).repeat(copies)  # noqa: E731
    elif isinstance(operation, MultiplyTransposed):
        module = made(nn.Linear, out, width, bias=has_bias)
        layout = lambda matrix: matrix.T  # noqa: E731
    else:
        module = made(nn.Linear, width, out, bias=has_bias)
    module.weight = weights.made(form, layout)
    module.register_parameter("bias", bias)
    return module


def _convolution(
    layer: FactorizedConvolution, operation: Convolve, shape: tuple[int, int], has_bias: bool
) -> nn.Module:
    """The convolution of a factor, its kernel not yet there."""
    rows, columns = operation.positions_of_matrix
    groups = operation.groups * operation.shared
    outputs, inputs = shape[0] // rows * operation.shared, shape[1] // columns * groups
    settings = {"stride": operation.stride, "dilation": operation.dilation, "groups": groups}
    if operation.output_padding is not None:
        settings["output_padding"] = operation.output_padding
    padding = layer.padding if isinstance(layer.padding, str) else operation.padding
    transposed = operation.output_padding is not None
    kind = (TRANSPOSED if transposed else ORDINARY)[operation.axes - 1]
    settings |= {"padding": padding, "padding_mode": layer.padding_mode, "bias": has_bias}
    return made(kind, inputs, outputs, operation.kernel_size, **settings)


def _reader(model: nn.Module, name: str) -> str:
    """The class of the module that does more with a layer inside of it than call it on one input.

    Found in the source of the modules around it; empty if none does.
    """
    path = name.split(".")
    if not name or path[-1].isdigit():
        return ""
    for depth in range(len(path) - 1, -1, -1):
        around = type(model.get_submodule(".".join(path[:depth])))
        if path[-1] in _parts_read(around):
            return around.__name__
    return ""


@cache
def _parts_read(cls: type) -> frozenset[str]:
    """The names of attributes that the code of a class reads more of, or calls on several inputs.

    Of ``x.name.weight`` and ``x.name(y, z)`` that is ``name``.
    """
    found: set[str] = set()
    for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # Made in an interpreter, or compiled.
            continue
        methods = [n for n in tree.body[0].body if getattr(n, "name", "") not in NOT_RUN]  # type: ignore[attr-defined]
        for node in (node for method in methods for node in ast.walk(method)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                found.add(node.value.attr)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if len(node.args) + len(node.keywords) > 1:
                    found.add(node.func.attr)
    return frozenset(found)
