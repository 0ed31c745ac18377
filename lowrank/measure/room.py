"""Whether the memory that there is will do for what is to be measured, before it is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lowrank.measure.forward import evaluating
from lowrank.measure.free_memory import free_memory
from lowrank.measure.memory import AliveTensors
from lowrank.measure.quality import KEPT_BYTES, Tally

if TYPE_CHECKING:
    from lowrank.measure.measure import MeasureSettings
    from lowrank.tasks.task import Task


@dataclass(frozen=True)
class Need:
    """Bytes beyond the model itself.

    Attributes:
        example: for each example of a batch.
        fixed: whatever the batch, where the model runs.
        kept: outputs kept on the CPU to compare with, those of the dense and those of the
            compressed model.
    """

    example: float
    fixed: float = 0.0
    kept: float = 0.0

    def of(self, batch: int, device: torch.device) -> float:
        """The bytes that so many examples at once need where the model runs."""
        kept = self.kept if device.type == "cpu" else 0.0
        return self.fixed + kept + batch * self.example

    def most(self, free: float, device: torch.device) -> int:
        """The most examples at once for which so many bytes do; 0 if not even for one."""
        left = free - self.of(0, device)
        return max(0, math.floor(left / max(self.example, 1.0)))


def check_room(
    model: nn.Module,
    task: Task,
    settings: MeasureSettings,
    copies: int = 0,
    processes: int = 1,
) -> None:
    """Find out from one example and two whether all that is measured fits the free memory.

    What the examples take is what the tensors of one take that is as long as the longest; scratch
    space inside of kernels is not seen. On three tasks the peak is within half of the estimate.

    Args:
        settings: with the batch sizes filled in; see `MeasureSettings.of`.
        copies: how often the model's weights will be there that are not yet.
        processes: how many do the same at once.

    Raises:
        ValueError: it does not fit; the text says how much is needed, how much there is, and which
            batch size fits.
    """
    assert settings.batch_size is not None and settings.latency_batch_sizes is not None
    device = torch.device(task.device)
    free = free_memory(device) / processes
    weights = copies * sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    inputs, targets = _longest(task, settings.batch_size)
    kept = min(2 * KEPT_BYTES, 2 * len(task.split("test")) * _output_bytes(model, task, inputs))
    evaluation = _need(model, lambda rows: _evaluate(model, task, inputs[:rows], targets[:rows]))
    _check(task, "batch_size", settings.batch_size, _with(evaluation, weights, kept), free)
    if settings.latency_batch_sizes:
        timing = _need(model, lambda rows: model(*task.example(rows)))
        largest = max(settings.latency_batch_sizes)
        _check(task, "latency_batch_sizes", largest, _with(timing, weights, kept), free)


def _with(need: Need, weights: float, kept: float) -> Need:
    return Need(need.example, need.fixed + weights, kept)


def _longest(task: Task, batch_size: int) -> tuple[Tensor, Tensor]:
    """Two examples of the batch with the largest inputs, or one where it has no more."""
    batches = task.split("test").batches(batch_size)
    inputs, targets = max(batches, key=lambda batch: batch[0].nbytes / len(batch[0]))
    return inputs[:2].clone(), targets[:2].clone()


def _output_bytes(model: nn.Module, task: Task, inputs: Tensor) -> int:
    with evaluating(model), torch.inference_mode():
        return sum(tensor.nbytes for tensor in task.observe(model, inputs[:1]))


def _evaluate(model: nn.Module, task: Task, inputs: Tensor, targets: Tensor) -> None:
    observed = task.observe(model, inputs)
    # As beside another model's outputs on the same batch.
    dense = tuple(tensor.clone() for tensor in observed)
    Tally(task).add(observed, targets, dense)


def _need(model: nn.Module, run: Callable[[int], object]) -> Need:
    one, two = (_peak(model, run, rows) for rows in (1, 2))
    each = max(two - one, 0)
    return Need(each, max(one - each, 0))


def _peak(model: nn.Module, run: Callable[[int], object], rows: int) -> int:
    """Bytes of tensors beyond the model's own at the worst moment of a run."""
    resident = tree_leaves([*model.parameters(), *model.buffers()])
    with evaluating(model), torch.no_grad(), AliveTensors(resident) as alive:
        before = alive.now
        run(rows)
    return alive.peak - before


def _check(task: Task, name: str, batch: int, need: Need, free: float) -> None:
    device = torch.device(task.device)
    needed, most = need.of(batch, device), need.most(free, device)
    if needed <= free:
        return
    do = (
        f"{name}={most} would fit"
        if most
        else "not even one would fit: take a smaller model, shorter examples or a larger machine"
    )
    raise ValueError(
        f"{name}={batch}: task {task.name!r} needs about {_gigabytes(needed)} of memory to run so "
        f"many examples at once ({_gigabytes(need.example)} for each), and {_gigabytes(free)} are "
        f"free on {device}; {do}"
    )


def _gigabytes(size: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"
