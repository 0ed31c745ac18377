"""Support of `torch.compile`, `torch.export` and `torch.jit.trace`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_C: Any = torch._C


def is_recorded() -> bool:
    """Whether `torch.compile`, `torch.export` or `torch.jit.trace` records the running code.

    Caches must then be neither read nor written.
    """
    return torch.compiler.is_compiling() or _C._get_tracing_state() is not None


def is_exported() -> bool:
    """Whether `torch.export` records the running code.

    Buffers that follow from others are then derived by the program, which would hold them else.
    """
    return torch.compiler.is_exporting()


@contextmanager
def untraced() -> Iterator[None]:
    """Let `torch.jit.trace`, which cannot record all the code inside, see a constant result."""
    state = _C._get_tracing_state()
    _C._set_tracing_state(None)
    try:
        yield
    finally:
        _C._set_tracing_state(state)
