"""What differs where a program is made of what runs: compiled, exported or traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_C: Any = torch._C


def is_recorded() -> bool:
    """Whether what runs becomes a program by `torch.compile`, `torch.export` or `torch.jit.trace`.

    What is kept from one run to the next must then not be looked at, nor anything be kept.
    """
    return torch.compiler.is_compiling() or _C._get_tracing_state() is not None


@contextmanager
def untraced() -> Iterator[None]:
    """What is computed inside is a constant to `torch.jit.trace`, which cannot record all of it."""
    state = _C._get_tracing_state()
    _C._set_tracing_state(None)
    try:
        yield
    finally:
        _C._set_tracing_state(state)
