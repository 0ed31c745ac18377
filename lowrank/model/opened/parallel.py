"""Linear maps that lie in one tensor, each for a part of the rows: experts of sorted tokens."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.approximation.weight_checks import DTYPES
from lowrank.model.host import Host
from lowrank.model.opened.opener import Opener
from lowrank.model.opened.stacked import StackedHost, opened

WEIGHT = "weight"


class OpenParallel(StackedHost):
    """Parallel linear maps whose matrices are in modules, by their number."""

    def _call_weights(self, x: Tensor, sizes: Sequence[int]) -> None:
        for linear, rows in zip(self._each(WEIGHT), x.split(sizes), strict=True):  # type: ignore[arg-type]
            if len(rows):
                linear(rows)

    @staticmethod
    def _grouped(matrices: dict[str, nn.Module]) -> nn.Module:
        return matrices[WEIGHT]

    def _place(self, number: str, name: str) -> str:
        return number


class ParallelOpener(Opener):
    """Modules with one tensor ``weight`` (count, out, in), called with rows (rows, in) and the
    number of rows that each matrix multiplies, one after the other.

    Which modules these are is seen by what they compute, on small random numbers.
    """

    def weights(self, module: nn.Module) -> tuple[str, ...]:
        own = module._parameters.get(WEIGHT)
        if own is None or own.ndim != 3 or own.dtype not in DTYPES or isinstance(module, Host):
            return ()
        is_alone = len(module._parameters) == 1 and not module._modules and not module._buffers
        if not is_alone or "forward" in vars(module) or not _is_parallel(module, len(own)):
            return ()
        return tuple(map(str, range(len(own))))

    def open(self, module: nn.Module) -> nn.Module:
        return opened(OpenParallel, module, (WEIGHT,))


@torch.no_grad()
def _is_parallel(module: nn.Module, count: int) -> bool:
    """Whether the code of a module computes parallel linear maps."""
    if len(inspect.signature(type(module).forward).parameters) != 3:  # With `self`.
        return False
    draw = torch.Generator().manual_seed(0)
    numbers = {"generator": draw, "dtype": torch.float64, "device": "cpu"}
    weight = torch.randn(count, 3, 2, **numbers)
    sizes = [(number + 1) % 3 for number in range(count)]
    x = torch.randn(sum(sizes), 2, **numbers)
    double = nn.Module.__new__(type(module))
    double.__dict__.update(vars(module) | {"_parameters": {WEIGHT: nn.Parameter(weight)}})
    try:
        found = type(module).forward(double, x, sizes)
    except Exception:  # Code of others, which expects other arguments.
        return False
    parts = zip(x.split(sizes), weight, strict=True)
    expected = torch.cat([F.linear(rows, matrix) for rows, matrix in parts])
    is_like = isinstance(found, Tensor) and found.shape == expected.shape
    return is_like and torch.allclose(found, expected)
