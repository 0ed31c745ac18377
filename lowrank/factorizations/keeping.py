"""Modules that keep a tensor derived from their own ones while none of these changes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from lowrank.factorizations.autocasting import without_autocast
from lowrank.factorizations.tracing import is_recorded
from lowrank.factorizations.watched import Watched


class Keeping(nn.Module):
    """A module that keeps a tensor derived from its parameters and buffers.

    Where nothing is to be trained, the tensor is derived once and kept until one of them changes.
    Changes are seen by the tensors' addresses and version counters; a change through `.data`, which
    hides from both, takes effect at the next `train()` or `eval()`.
    """

    _derived: DerivedTensor | None = None

    @abstractmethod
    def derive(self) -> Tensor:
        """The tensor, made anew; differentiable where the module can be trained."""

    def derived(self) -> Tensor:
        """`derive()`, kept between calls while no tensor of this module changes."""
        if is_recorded():
            return self.derive()  # What is recorded must not depend on what is kept.
        kept = self._derived
        if torch.is_grad_enabled() and self._is_trained(kept):
            # Dropped, because a fused optimizer steps without touching version counters.
            self.forget()
            return self.derive()
        if kept is None or not kept.is_current():
            tensors = [*self.parameters(), *self.buffers()]
            if any(tensor.is_inference() for tensor in tensors):
                return self.derive()  # They have no version counter to watch.
            # Not an inference tensor: it may be used in training later.
            with torch.inference_mode(False), torch.no_grad(), without_autocast(tensors[0]):
                kept = self._derived = DerivedTensor(self.derive(), tensors)
        return kept.tensor

    def forget(self) -> None:
        """Derive the tensor anew at the next call."""
        self._derived = None

    def _is_trained(self, kept: DerivedTensor | None) -> bool:
        tensors = [*self.parameters(), *self.buffers()] if kept is None else kept.tensors
        return any(tensor.requires_grad for tensor in tensors)

    # Replaced tensors have version counters of their own.

    def train(self, mode: bool = True) -> Self:
        self.forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_derived": None}


class DerivedTensor(Watched):
    """A derived tensor, and what the tensors that it was made from were then.

    Args:
        tensor: the derived one.
        sources: the parameters and buffers that it was made from.
    """

    def __init__(self, tensor: Tensor, sources: list[Tensor]) -> None:
        super().__init__(sources)
        self.tensor = tensor
