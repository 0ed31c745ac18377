"""Forward passes for measurements: in evaluation mode, without a lasting change of the model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.model.nested import fresh, tensors

# The inputs of a model: for `model(*example)`, or by name for `model(**example)`.
Example = tuple[Any, ...] | Mapping[str, Any]


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in before."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Without the fused attention kernels of inference, whose insides no dispatch mode sees."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def check_example(example: Example) -> None:
    """Raise ValueError unless `example` holds the inputs of a model, by position or by name.

    A bare tensor would be taken apart row by row, and the wrong thing measured.
    """
    is_named = isinstance(example, Mapping) and all(isinstance(name, str) for name in example)
    if not (isinstance(example, tuple) or is_named) or not example:
        raise ValueError(
            "example must be a non-empty tuple of input tensors, or a mapping of inputs by name, "
            f"got {type(example).__name__}; for a model of one input write (inputs,)"
        )
    if not tensors(example):
        raise ValueError(f"example must hold tensors, and {described(example)} has none")


def call(model: nn.Module, example: Example) -> Any:
    """The outputs of a model for copies of the inputs of an example; see `run`."""
    return run(model, fresh(example))


def run(model: nn.Module, example: Example) -> Any:
    """The outputs of a model for the inputs of an example, which it may change in place.

    Raises:
        ValueError: it does not run on them.
    """
    try:
        return called(model, example)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"the model does not run on the example, {described(example)}: "
            f"{type(error).__name__}: {error}. Give the inputs of {type(model).__name__}.forward"
            f"{inspect.signature(model.forward)}, as a tuple or as a mapping by name"
        ) from error


def called(model: nn.Module, inputs: Example) -> Any:
    """The outputs of a model for inputs by position or by name."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def described_value(value: Any) -> str:
    """Such as ``float32 (1, 784)``; the class of what is no tensor."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def described(example: Example) -> str:
    """Such as ``(float32 (1, 784))`` or ``{input_ids: int64 (1, 12)}``."""

    one = described_value
    if isinstance(example, Mapping):
        return f"{{{', '.join(f'{name}: {one(value)}' for name, value in example.items())}}}"
    return f"({', '.join(map(one, example))})"
