"""How a model is run to be measured: in evaluation mode, and left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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


def check_example(example: tuple[Tensor, ...]) -> None:
    """Raise ValueError unless `example` is a tuple of inputs for `model(*example)`.

    A bare tensor would be taken apart row by row, and the wrong thing measured.
    """
    if not isinstance(example, tuple) or not example:
        raise ValueError(
            f"example must be a non-empty tuple of input tensors, got {type(example).__name__}; "
            "for a model of one input write (inputs,)"
        )
