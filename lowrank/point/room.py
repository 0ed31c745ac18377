"""The check that the measures of a point fit into memory, made before they start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from lowrank.measure.free_memory import free_memory
from lowrank.measure.memory import AliveTensors
from lowrank.model.batch import Batch
from lowrank.model.forward import call, evaluating
from lowrank.model.nested import tensors
from lowrank.point.quality import KEPT_BYTES
from lowrank.point.tally import Tally

if TYPE_CHECKING:
    from lowrank.point.settings import MeasureSettings
    from lowrank.tasks.task import Task


# Kernels use scratch space outside of tensors (convolutions as much as their inputs), and
# allocators reserve memory: together from nothing to half of the bytes of the tensors.
SPARE = 1.25
# Examples per batch in the search for the longest.
LOOKED_AT = 64


@dataclass(frozen=True)
class Need:
    """Bytes beyond the model itself.

    Attributes:
        stages: for each of the stages that run one after the other, the bytes of any batch and the
            bytes per example.
        kept: bytes held on the CPU during all stages.
    """

    stages: tuple[tuple[float, float], ...]
    kept: float = 0.0

    def of(self, batch: int, device: torch.device) -> float:
        """The bytes that `batch` examples at once need on the device of the model."""
        return self._kept(device) + SPARE * max(fixed + batch * each for fixed, each in self.stages)

    def most(self, free: float, device: torch.device) -> int:
        """The most examples at once that fit into `free` bytes; 0 if not even one fits."""
        left = (free - self._kept(device)) / SPARE
        fitting = min((left - fixed) / max(each, 1.0) for fixed, each in self.stages)
        return max(0, math.floor(fitting))

    def _kept(self, device: torch.device) -> float:
        return self.kept if device.type == "cpu" else 0.0


def check_room(
    model: nn.Module,
    task: Task,
    settings: MeasureSettings,
    copies: int = 0,
    processes: int = 1,
) -> None:
    """Check, from runs of one and of two examples, that all measures fit into the free memory.

    The estimate is the memory of the tensors of the longest examples plus a quarter (see `SPARE`).
    On three tasks the memory that the system reported was within a factor of 1.5 of it.

    Args:
        settings: settings with batch sizes; see `MeasureSettings.of`.
        copies: the number of further copies of the model's weights.
        processes: the number of processes that measure at the same time.

    Raises:
        ValueError: too little memory; the text says how much is needed, how much is free, and which
            batch size fits.
    """
    assert settings.batch_size is not None and settings.latency_batch_sizes is not None
    device, count = torch.device(task.device), len(task.split("test"))
    free = free_memory(device) / processes
    weights = copies * sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    evaluation = _evaluation(model, task)
    evaluation = replace(evaluation, kept=evaluation.kept + weights)
    at_once = min(settings.batch_size, count)  # No batch has more examples than the split.
    _check(task, f"batch_size={settings.batch_size}", at_once, evaluation, free)
    if settings.latency_batch_sizes:
        largest = max(settings.latency_batch_sizes)
        # Made before the runs, so that the data are not counted.
        examples = [task.example(rows) for rows in (1, 2)]
        timing = Need(
            (_line(model, lambda rows: call(model, examples[rows - 1])),), evaluation.kept
        )
        _check(task, f"latency_batch_sizes={largest}", largest, timing, free)


def _longest(task: Task) -> Batch:
    """The two examples with the largest inputs, or the only one."""

    def size(batch: Batch) -> float:
        return sum(tensor.nbytes for tensor in tensors(batch.inputs)) / len(batch)

    return max(task.split("test").batches(LOOKED_AT), key=size).first(2).fresh()


def _evaluation(model: nn.Module, task: Task) -> Need:
    """The memory of evaluating a model beside another: of its run, and of its metrics."""
    batch, count = _longest(task), len(task.split("test"))
    batches = [batch.first(rows) for rows in (1, 2)]
    with evaluating(model), torch.no_grad():
        outputs = [task.predict(model, batch) for batch in batches]
    each = sum(tensor.nbytes for tensor in tensors(outputs[0]))
    is_kept = count * each <= KEPT_BYTES

    def forward(rows: int) -> None:
        task.predict(model, batches[rows - 1])

    def tally(rows: int) -> None:
        Tally(task).add(outputs[rows - 1], batches[rows - 1], outputs[rows - 1])

    # On the CPU, the kept outputs include those of both models on the batch.
    on_cpu = torch.device(task.device).type == "cpu"
    beside = 0 if is_kept and on_cpu else 2 * each
    lines = _line(model, forward), _line(model, tally)
    stages = tuple((fixed, slope + beside) for fixed, slope in lines)
    return Need(stages, 2 * count * each if is_kept else KEPT_BYTES)


def _line(model: nn.Module, run: Callable[[int], object]) -> tuple[float, float]:
    """The bytes of any batch and the bytes per example, from runs of one and of two examples."""
    one, two = (_peak(model, run, rows) for rows in (1, 2))
    each = max(two - one, 0)
    return max(one - each, 0), each


def _peak(model: nn.Module, run: Callable[[int], object], rows: int) -> int:
    """The peak bytes of tensors in a run, without the model's own."""
    resident = tree_leaves([*model.parameters(), *model.buffers()])
    with evaluating(model), torch.no_grad(), AliveTensors(resident) as alive:
        before = alive.now
        run(rows)
    return alive.peak - before


def _check(task: Task, setting: str, at_once: int, need: Need, free: float) -> None:
    device = torch.device(task.device)
    needed, most = need.of(at_once, device), need.most(free, device)
    if needed <= free:
        return
    do = (
        f"{setting.partition('=')[0]}={most} would fit"
        if most
        else "not even one would fit: take a smaller model, shorter examples or a larger machine"
    )
    raise ValueError(
        f"{setting}: task {task.name!r} needs about {_gigabytes(needed)} of memory to run "
        f"{at_once} examples at once, and {_gigabytes(free)} are free on {device}; {do}"
    )


def _gigabytes(size: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"
