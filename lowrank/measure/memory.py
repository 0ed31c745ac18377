"""Peak memory of one forward pass, and of steps that change a model."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from lowrank.model.forward import (
    Example,
    check_example,
    evaluating,
    run,
    unfused_attention,
)
from lowrank.model.nested import fresh, tensors


def peak_memory(model: nn.Module, example: Example) -> int:
    """Bytes of all tensors alive at the peak of one forward pass of `example`.

    Counted are the model's parameters and buffers, the dense copies that sparse and quantized
    leaves keep once they have run (running memory is not file size), the inputs, and activations
    while they live; a memory shared by several tensors once. It is the memory of every pass but the
    first. The same model and example give the same number.

    On the CPU the tensors are followed one by one: scratch space inside a kernel is not seen. On
    CUDA the growth during the pass is what the allocator reports, scratch space and rounding
    included, so numbers of the two devices do not compare.

    Args:
        example: the inputs, by position or by name.

    Raises:
        ValueError: `example` holds no inputs.
    """
    check_example(example)
    example = fresh(example)
    device = tensors(example)[0].device
    resident = [*model.parameters(), *model.buffers(), *tensors(example)]
    with evaluating(model), unfused_attention(), torch.no_grad():
        with AliveTensors(resident) as alive:
            run(model, example)  # Fills the caches of the leaves; what stays alive is resident.
            alive.peak = alive.now
            if device.type != "cuda":
                run(model, example)
        if device.type != "cuda":
            return alive.peak
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run(model, example)
        return alive.now + torch.cuda.max_memory_allocated(device) - before


# Steps whose memory is followed: the state of an optimizer is there from the second on.
FIRST_STEPS = 2


class StepMemory:
    """The most memory at once in the first two steps of a training; later ones take about as much.

    On the CPU it is that of all tensors alive, as for `peak_memory`: parameters, gradients,
    activations, the state of the optimizer and the batch, while they live; scratch space inside a
    kernel is not seen. On CUDA it is the peak of the allocator, with all that the process holds on
    the device.

    Attributes:
        peak: bytes; None before the first step.
    """

    def __init__(self, device: torch.device, peak: int | None = None) -> None:
        self.device, self.peak = device, peak

    @contextmanager
    def following(self, step: int, resident: Callable[[], Iterable[Tensor]]) -> Iterator[None]:
        """Follow the memory of the step inside, if it is one of the first.

        Args:
            step: its number, counted from 0.
            resident: gives the tensors that are alive before it, and may not be read in it until
                the peak.
        """
        if step >= FIRST_STEPS:
            yield
            return
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            yield
            found = torch.cuda.max_memory_allocated(self.device)
        else:
            with AliveTensors(resident()) as alive:
                yield
            found = alive.peak
        self.peak = max(self.peak or 0, found)


class AliveTensors(TorchDispatchMode):
    """Follows the memory of tensors that operations read or make until it is freed.

    Attributes:
        now: bytes alive.
        peak: the most bytes alive at once.
    """

    def __init__(self, tensors: Iterable[Any]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = WeakIdKeyDictionary()
        self._follow(tensors)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # A read tensor may be older than this mode, such as a plain attribute of a module.
        self._follow(tree_leaves((args, kwargs)))
        result = func(*args, **kwargs)
        self._follow(tree_leaves(result))
        return result

    def _follow(self, values: Iterable[Any]) -> None:
        for tensor in values:
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage not in self._seen:
                self._seen[storage] = True
                self.now += storage.nbytes()
                weakref.finalize(storage, self._forget, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.now)

    def _forget(self, size: int) -> None:
        self.now -= size
