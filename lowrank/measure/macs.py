"""Multiply-accumulates of one forward pass, counted by `torch.utils.flop_counter`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from lowrank.factorizations.keeping import Keeping
from lowrank.measure.size import leaves
from lowrank.model.forward import Example, call, check_example, evaluating, unfused_attention

aten = torch.ops.aten


def macs(model: nn.Module, example: Example) -> int:
    """Multiply-accumulates of one forward pass of `example`: those of one example if it is one.

    Counts matrix products, convolutions (their zero padding included), attention (causal attention
    in full) and recurrent layers; 1 MAC = 2 FLOPs. Additions of a bias, activations, pooling,
    normalisation (BatchNorm too) and look-ups in a table count zero.

    A sparse leaf runs as a dense matrix, but its zeros are not counted: the number is what a kernel
    that skips them would do, and a ratio of it is a theoretical speedup. A factorization that a
    module reads instead of calling it, as attention does, counts as it runs: multiplied out.

    Args:
        example: the inputs, by position or by name.

    Raises:
        ValueError: `example` holds no inputs, the model does not run on them, or it runs an
            operation that cannot be counted.
    """
    return layer_macs(model, example)[""]


def layer_macs(model: nn.Module, example: Example) -> dict[str, int]:
    """`macs` spent inside each module, by its name; "" is the model itself.

    Keys are all names of all modules: one that has two names has the same number under both. A
    module that is never called has 0, such as the output projection of PyTorch's attention, which
    the attention reads.
    """
    check_example(example)
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS | _formulas_of_libraries())
    zeros = 0.0  # FLOPs that the leaves spent on zeros.
    spent: dict[nn.Module, float] = dict.fromkeys(model.modules(), 0.0)

    def executed() -> float:
        return counter.get_total_flops()

    def skip_zeros(module: Any, flops: float) -> None:
        nonlocal zeros
        zeros += (1 - module.density) * flops

    def add(module: nn.Module, flops: float) -> None:
        spent[module] += flops

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(unfused_attention())
        # Not inference_mode: there, composite operations reach a dispatch mode in one piece.
        stack.enter_context(torch.no_grad())
        for part in model.modules():
            if isinstance(part, Keeping):
                part.derived()  # Paid in the first pass only, so in none that is counted.
        # The zeros of a leaf are known before any module around it is added up.
        _meter(stack, leaves(model), executed, skip_zeros)
        _meter(stack, model.modules(), lambda: executed() - zeros, add)
        stack.enter_context(counter)
        call(model, example)
    names = model.named_modules(remove_duplicate=False)
    return {name: round(spent[module] / 2) for name, module in names}


def _meter(
    stack: ExitStack,
    modules: Iterable[nn.Module],
    read: Callable[[], float],
    report: Callable[[nn.Module, float], None],
) -> None:
    """Until `stack` closes, call `report` with what `read` grew by in each call of a module."""
    for module in modules:
        starts: list[float] = []

        def before(module: nn.Module, _: Any, starts: list[float] = starts) -> None:
            starts.append(read())

        def after(module: nn.Module, _: Any, __: Any, starts: list[float] = starts) -> None:
            start = starts.pop()
            if not starts:  # A module that calls itself is counted by its outermost call.
                report(module, read() - start)

        stack.callback(module.register_forward_pre_hook(before).remove)
        stack.callback(module.register_forward_hook(after).remove)


# The following completes torch's own registry, which counts unknown operations as zero.


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _matrix_vector(matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _add_matrix_vector(addend: Any, matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _inner_product(vector: Any, other: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(vector)


def _recurrent(x: Any, input_weight: Any, hidden_weight: Any, *_: Any, **__: Any) -> int:
    """One layer in one direction over x of shape (steps, batch, features)."""
    return 2 * x[0] * x[1] * (math.prod(input_weight) + math.prod(hidden_weight))


def _trilinear(
    first: Any, second: Any, third: Any, *expanded: Any, out_shape: Any = None, **_: Any
) -> int:
    """Sums of products of three numbers, as of `F.bilinear`: one multiplication by a weight."""
    wide = []
    for shape, axes in zip((first, second, third), expanded, strict=False):
        sizes = list(shape)
        for axis in sorted(axes):
            sizes.insert(axis, 1)
        wide.append(sizes)
    return 2 * math.prod(map(max, *wide))


def _grouped(x: Any, matrices: Any, *_: Any, **__: Any) -> int:
    """Each row of x, (rows, in), by one of several matrices, (matrices, in, out)."""
    return 2 * math.prod(x) * matrices[-1]


def _uncountable(operation: Any) -> Callable[..., int]:
    def refuse(*_: Any, **__: Any) -> int:
        raise ValueError(
            f"the MACs of {operation} cannot be counted, and zero would be wrong; run the model "
            "on the CPU, or with modules made of matrix products and convolutions"
        )

    return refuse


_FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten.mv: _matrix_vector,
    aten.addmv: _add_matrix_vector,
    aten.dot: _inner_product,
    aten.mkldnn_rnn_layer: _recurrent,
    aten._cudnn_rnn: _uncountable(aten._cudnn_rnn),
    aten._trilinear: _trilinear,
    aten._grouped_mm: _grouped,
}


def _formulas_of_libraries() -> dict[Any, Callable[..., int]]:
    """The formulas of operations that a loaded library defines."""
    if "transformers.integrations.moe" not in sys.modules:
        return {}
    return {torch.ops.transformers.grouped_mm_fallback: _grouped}
