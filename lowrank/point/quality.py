"""How well a model does its task, and how far it agrees with the dense model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lowrank.metrics.metric import LARGEST, Metric, check_names
from lowrank.model.forward import evaluating
from lowrank.records.checks import is_number
from lowrank.records.columns import COSTS
from lowrank.tasks.task import LOSS

if TYPE_CHECKING:
    from lowrank.tasks.task import SplitName, Task

# Outputs that take more bytes are not kept: the logits of a language model on a test split would
# fill any memory.
KEPT_BYTES = 2**30

Observed = tuple[Tensor, ...]


@dataclass(frozen=True)
class Evaluation:
    """The quality of a model on one split.

    Attributes:
        metrics: the task's own, "loss" (mean over the predictions), and with a reference how far
            the two models agree, by name, as means over the predictions: see `Task.agreement`.
        observed: by batch what the model gives, on the CPU; see `Task.observe`. A list where it
            takes at most `KEPT_BYTES`, else made again whenever it is gone through.
        undefined: measures that have no value on this data that a record holds, which `metrics`
            lacks, each with the reason.
    """

    metrics: dict[str, float]
    observed: Iterable[Observed] = field(repr=False)
    undefined: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rerun:
    """What a model gives on a split by batch, made by running the model again."""

    model: nn.Module
    task: Task
    split: SplitName
    batch_size: int

    def __iter__(self) -> Iterator[Observed]:
        for inputs, _ in self.task.split(self.split).batches(self.batch_size):
            # Entered and left between two steps, for whoever goes through this has its own.
            with evaluating(self.model), torch.inference_mode():
                observed = self.task.observe(self.model, inputs)
            yield observed


def evaluate(
    model: nn.Module,
    task: Task,
    split: SplitName = "test",
    batch_size: int | None = None,
    reference: Iterable[Observed] | None = None,
) -> Evaluation:
    """Run a model over a whole split of a task, in evaluation mode.

    Every prediction counts the same, those of a short last batch too.

    Args:
        split: train, calibration, validation or test.
        batch_size: examples that run at once; what suits the task's outputs if not given.
        reference: `observed` of the dense model on the same split with the same `batch_size`. If
            given, agreement is measured too.

    Raises:
        ValueError: an output is NaN or infinite, the split is empty, or `reference` does not fit.
    """
    data, tally = task.split(split), Tally(task)
    batch_size = task.batch_sizes.quality if batch_size is None else batch_size
    if len(data) == 0:
        raise ValueError(f"the split '{split}' of task '{task.name}' is empty: nothing to measure")
    kept: list[Observed] = []
    size = 0
    dense_batches = repeat(None) if reference is None else iter(reference)
    with evaluating(model), torch.inference_mode():
        for inputs, targets in data.batches(batch_size):
            observed = task.observe(model, inputs)
            _check_finite(observed[0], tally.examples)
            dense = next(dense_batches, ())
            tally.add(observed, targets, None if dense is None else _fitting(observed, dense))
            size += sum(tensor.nbytes for tensor in observed)
            if size <= KEPT_BYTES:
                kept.append(tuple(_alone(tensor) for tensor in observed))
            else:
                kept.clear()
    if reference is not None and next(dense_batches, None) is not None:
        raise ValueError(f"the reference has more than these {tally.examples} examples: {SAME}")
    metrics, undefined = tally.results()
    again = Rerun(model, task, split, batch_size)
    return Evaluation(metrics, kept if size <= KEPT_BYTES else again, undefined)


class Tally:
    """What a model's quality comes from, added up over the batches of a split.

    Attributes:
        examples: how many there were.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.declared = {metric.name for metric in declared(task)}
        self.metrics = task.metrics()
        self.means = _Means()
        self.examples = 0

    def add(self, observed: Observed, targets: Tensor, dense: Observed | None) -> None:
        """Count a batch, and with what the dense model gives on it how far the two agree."""
        outputs = observed[0]
        self.examples += len(outputs)
        self.metrics.update(outputs, targets)
        predictions = self.task.predictions(targets)
        loss = float(self.task.loss(outputs, targets))
        self.means.add(LOSS, loss * predictions, predictions)
        if dense is not None:
            agreement = self.task.agreement(observed, dense, targets)
            self._check_declared(agreement)
            self.means.add_all(agreement)

    def results(self) -> tuple[dict[str, float], dict[str, str]]:
        """The measures that a record holds, and why others are not there."""
        computed = {name: float(value) for name, value in self.metrics.compute().items()}
        self._check_declared(computed)
        values, others = on_record(computed | self.means.values())
        return values, self.task.undefined() | others

    def _check_declared(self, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in self.declared]
        if unknown:
            raise ValueError(
                f"task {self.task.name!r} measures {', '.join(unknown)} and does not say which way "
                "is better: name each in `judged_by`, as in Metric(name, title, heading), beside "
                f"{', '.join(sorted(self.declared))}"
            )


def declared(task: Task) -> tuple[Metric, ...]:
    """What a task says of its numbers.

    Raises:
        ValueError: it is no tuple of metrics, names one twice, or lacks the loss.
    """
    metrics = task.judged_by()
    if not isinstance(metrics, tuple) or not all(isinstance(one, Metric) for one in metrics):
        raise ValueError(f"task {task.name!r}: judged_by() must be a tuple of Metric")
    check_names(metrics, f"task {task.name!r}: judged_by()")
    costs = [metric.name for metric in metrics if metric.name in COSTS]
    if costs:
        raise ValueError(f"task {task.name!r}: {costs[0]!r} is what a model costs, and no metric")
    if LOSS not in [metric.name for metric in metrics]:
        raise ValueError(f"task {task.name!r}: judged_by() lacks {LOSS!r}, which every task has")
    return metrics


def on_record(values: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """The measures that a record holds, and why others are not there."""
    held = {name: value for name, value in values.items() if is_number(value)}
    return held, {name: _reason(value) for name, value in values.items() if name not in held}


def _reason(value: float) -> str:
    if math.isnan(value):
        return "it is not a number: the data do not define it"
    return f"it is {value:.3g}, beyond {LARGEST:g}, the largest number that a record holds"


def _alone(tensor: Tensor) -> Tensor:
    """A tensor on the CPU that keeps no more memory than it has itself, as a view would."""
    tensor = tensor.cpu()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


SAME = "evaluate both models on the same split with the same batch_size"


def _fitting(observed: Observed, dense: Observed) -> Observed:
    """What the dense model gave on the same batch, on the same device."""
    shapes, expected = [tuple(o.shape) for o in observed], [tuple(d.shape) for d in dense]
    if shapes != expected:
        raise ValueError(
            f"outputs of shape {shapes} do not match the reference's {expected or 'end'}: {SAME}"
        )
    return tuple(d.to(o.device) for o, d in zip(observed, dense, strict=True))


class _Means:
    """Running means of named numbers."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, total: float, count: int) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + total
        self.counts[name] = self.counts.get(name, 0) + count

    def add_all(self, values: Mapping[str, Tensor]) -> None:
        for name, numbers in values.items():
            self.add(name, float(numbers.sum()), numbers.numel())

    def values(self) -> dict[str, float]:
        return {
            name: total / self.counts[name] if self.counts[name] else math.nan
            for name, total in self.sums.items()
        }


def _check_finite(output: Tensor, examples: int) -> None:
    finite = torch.isfinite(output)
    if not bool(finite.all()):
        raise ValueError(
            f"{int((~finite).sum())} of {output.numel()} outputs in the batch that starts at "
            f"example {examples} are NaN or infinite; such a model has no quality to report. "
            "Compress less, or leave sensitive layers out with `where`."
        )
