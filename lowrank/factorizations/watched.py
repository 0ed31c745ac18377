"""Detection of changes to tensors, for caches that are derived from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowrank.factorizations.tracing import is_recorded

_C: Any = torch._C


class Watched:
    """Tensors as they were at one moment: their addresses and version counters.

    A copy watches nothing, so a cache derived from the original is derived anew.

    Args:
        tensors: any but inference tensors, which have no counters.
    """

    def __init__(self, tensors: Sequence[Tensor] = ()) -> None:
        self.tensors = list(tensors)
        self.state = [(t, t.data_ptr(), t._version) for t in tensors]
        # The memory is held, so that no other tensor can get an address that is watched.
        self.memory = [t.detach() for t in tensors]

    def is_current(self) -> bool:
        """Whether the tensors still are what they were."""
        return all(t.data_ptr() == at and t._version == seen for t, at, seen in self.state)

    def misses(self, tensors: Sequence[Tensor]) -> bool:
        """Whether a cache derived from the watched tensors may be outdated for these.

        False while code is recorded (see `is_recorded`), and for tensors without numbers.
        """
        if is_recorded() or not all(map(has_numbers, tensors)):
            return False
        if [id(t) for t in tensors] != [id(t) for t in self.tensors]:
            return True
        return not self.is_current()

    def __reduce__(self) -> tuple[Any, ...]:
        return Watched, ()


def watch(*tensors: Tensor) -> Watched:
    """Watch tensors from now on; watch none if one of them has no version counter."""
    counted = all(has_numbers(tensor) and not tensor.is_inference() for tensor in tensors)
    return Watched(tensors if counted and not is_recorded() else ())


def has_numbers(tensor: Tensor) -> bool:
    """Whether it is a plain tensor in memory, not a meta, wrapped or subclassed one."""
    is_wrapped = _C._functorch.is_functorch_wrapped_tensor(tensor)
    return type(tensor) is Tensor and not tensor.is_meta and not is_wrapped
