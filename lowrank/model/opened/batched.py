"""Gated experts that take batches of equal size: each expert has its own copy of the tokens."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.approximation.weight_checks import DTYPES
from lowrank.model.host import Host
from lowrank.model.opened.opener import Opener
from lowrank.model.opened.stacked import StackedHost, opened

# The sizes of the numbers on which a module is tried: in, inner.
IN, INNER = 3, 2


class OpenBatched(StackedHost):
    """Batched experts whose matrices are in modules, by the number of the expert."""

    is_transposed = True

    def _call_weights(self, x: Tensor) -> None:
        rises, falls = (self._each(name) for name in self._names)
        parts = x.view(len(rises), -1, x.shape[-1])
        for rows, rise, fall in zip(parts, rises, falls, strict=True):
            # Where a token is not routed to an expert, its row is of zeros.
            routed = rows[rows.any(dim=-1)]
            if len(routed):
                fall(_gated(self, rise(routed)))


class BatchedOpener(Opener):
    """Modules with two tensors, (experts, in, 2 · inner) of gates and what they scale, and
    (experts, inner, in), and one module, the activation; called with rows (experts · tokens, in).

    Which modules these are is seen by what they compute, on small random numbers.
    """

    def weights(self, module: nn.Module) -> tuple[str, ...]:
        parts = list(module._parameters.values())
        if len(parts) != 2 or isinstance(module, Host) or "forward" in vars(module):
            return ()
        if not all(part is not None and part.ndim == 3 and part.dtype in DTYPES for part in parts):
            return ()
        if len(module._modules) != 1 or module._buffers or not _is_batched(module, parts):
            return ()
        count = len(parts[0])  # type: ignore[arg-type]
        return tuple(f"{number}.{name}" for number in range(count) for name in module._parameters)

    def open(self, module: nn.Module) -> nn.Module:
        return opened(OpenBatched, module, tuple(module._parameters))


def _gated(module: Any, inner: Tensor) -> Tensor:
    """The gate of each number, by the activation of the module, times the number."""
    gate, up = inner.chunk(2, dim=-1)
    (activation,) = (one for name, one in module._modules.items() if not name.isdecimal())
    return up * activation(gate)


@torch.no_grad()
def _is_batched(module: nn.Module, parts: Any) -> bool:
    """Whether the code of a module computes batched experts with gates."""
    (count, width, twice), fall = (tuple(part.shape) for part in parts)
    if twice % 2 or fall != (count, twice // 2, width):
        return False
    if len(inspect.signature(type(module).forward).parameters) != 2:  # With `self`.
        return False
    draw = torch.Generator().manual_seed(0)
    numbers = {"generator": draw, "dtype": torch.float64, "device": "cpu"}
    rise = torch.randn(count, IN, 2 * INNER, **numbers)
    down = torch.randn(count, INNER, IN, **numbers)
    x = torch.randn(2 * count, IN, **numbers)
    # Its sizes are attributes too.
    small = {twice // 2: INNER, width: IN}
    own = {n: small.get(v, v) if type(v) is int else v for n, v in vars(module).items()}
    double = nn.Module.__new__(type(module))
    tensors = dict(zip(module._parameters, map(nn.Parameter, (rise, down)), strict=True))
    double.__dict__.update(own | {"_parameters": tensors})
    try:
        found = type(module).forward(double, x)
    except Exception:  # Code of others, which expects other arguments.
        return False
    inner = torch.bmm(x.view(count, 2, IN), rise)
    expected = torch.bmm(_gated(module, inner), down).view(-1, IN)
    is_like = isinstance(found, Tensor) and found.shape == expected.shape
    return is_like and torch.allclose(found, expected)
