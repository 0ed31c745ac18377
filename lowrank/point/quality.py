"""Quality of a model on its task, and its agreement with the dense model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.metrics.metric import LARGEST, Metric, check_names
from lowrank.model.batch import Batch
from lowrank.model.forward import evaluating
from lowrank.model.nested import tensors, with_tensors
from lowrank.records.checks import is_number
from lowrank.records.columns import COSTS
from lowrank.tasks.task import LOSS

if TYPE_CHECKING:
    from lowrank.tasks.task import SplitName, Task

# Larger outputs are not kept: the logits of a language model on a test split would fill any memory.
KEPT_BYTES = 2**30


@dataclass(frozen=True)
class Evaluation:
    """The quality of a model on one split.

    Attributes:
        metrics: by name, the task's metrics, "loss" (mean over the predictions) and, if there is a
            reference, the measures of `Task.agreement` as means over the predictions.
        outputs: the outputs of each batch, on the CPU; see `Task.forward`. A list of at most
            `KEPT_BYTES`, or else a `Rerun`, which computes them in each iteration.
        undefined: measures that `metrics` lacks because these data do not define them, or because
            their value is too large, each with the reason.
    """

    metrics: dict[str, float]
    outputs: Iterable[Any] = field(repr=False)
    undefined: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rerun:
    """The outputs of a model on a split by batch, computed again in each iteration."""

    model: nn.Module
    task: Task
    split: SplitName
    batch_size: int

    def __iter__(self) -> Iterator[Any]:
        for batch in self.task.split(self.split).batches(self.batch_size):
            # Entered and left in each step, since the caller has contexts of its own between two
            # steps.
            with evaluating(self.model), torch.inference_mode():
                outputs = self.task.forward(self.model, batch)
            yield outputs


def evaluate(
    model: nn.Module,
    task: Task,
    split: SplitName = "test",
    batch_size: int | None = None,
    reference: Iterable[Any] | None = None,
) -> Evaluation:
    """Run a model over a whole split of a task, in evaluation mode.

    All predictions have equal weight, also in a shorter last batch.

    Args:
        split: train, calibration, validation or test.
        batch_size: examples that run at once; the task's own (`Task.batch_sizes`) if not given.
        reference: the `outputs` of the dense model on the same split with the same `batch_size`; if
            given, agreement is measured too.

    Raises:
        ValueError: an output is NaN or infinite, the split is empty, or `reference` does not fit.
    """
    data, tally = task.split(split), Tally(task)
    batch_size = task.batch_sizes.quality if batch_size is None else batch_size
    if len(data) == 0:
        raise ValueError(f"the split '{split}' of task '{task.name}' is empty: nothing to measure")
    kept: list[Any] = []
    size = 0
    dense_batches = repeat(None) if reference is None else iter(reference)
    with evaluating(model), torch.inference_mode():
        for batch in data.batches(batch_size):
            outputs = task.forward(model, batch)
            _check_finite(outputs, tally.examples)
            dense = next(dense_batches, END)
            tally.add(outputs, batch, None if dense is None else _fitting(outputs, dense))
            size += sum(tensor.nbytes for tensor in tensors(outputs))
            if size <= KEPT_BYTES:
                kept.append(with_tensors(outputs, _alone))
            else:
                kept.clear()
    if reference is not None and next(dense_batches, END) is not END:
        raise ValueError(f"the reference has more than these {tally.examples} examples: {SAME}")
    metrics, undefined = tally.results()
    again = Rerun(model, task, split, batch_size)
    return Evaluation(metrics, kept if size <= KEPT_BYTES else again, undefined)


class Tally:
    """The sums behind a model's quality, over the batches of a split.

    Attributes:
        examples: the number of examples so far.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.first, *_ = metrics = declared(task)
        self.declared = {metric.name for metric in metrics}
        self.metrics = task.metrics()
        self.means = _Means()
        self.examples = 0
        self.is_compared = False

    def add(self, outputs: Any, batch: Batch, dense: Any | None) -> None:
        """Add a batch, and the agreement with the outputs `dense` if they are given."""
        targets = batch.targets
        self.examples += len(batch)
        self.task.count(self.metrics, outputs, targets)
        predictions = self.task.predictions(batch)
        if predictions:
            loss = float(self.task.loss(outputs, targets))
            self.means.add(LOSS, loss * predictions, predictions)
        if dense is not None:
            self.is_compared = True
            agreement = self.task.agreement(outputs, dense, batch)
            self._check_declared(agreement)
            self.means.add_all(agreement)

    def results(self) -> tuple[dict[str, float], dict[str, str]]:
        """The measures that a record holds, and the reasons for those left out."""
        computed = {name: float(value) for name, value in self.metrics.compute().items()}
        self._check_declared(computed)
        means, undefined = self.means.values(), self.task.undefined()
        twice = sorted(computed.keys() & means.keys())
        if twice:
            raise ValueError(
                f"task {self.task.name!r}: its metrics and what is measured beside them have one "
                f"name, {', '.join(twice)}: give its own another"
            )
        # What says how far a model is from the dense one is not measured of one model alone.
        is_alone = self.first.dense is not None and not self.is_compared
        if not is_alone and self.first.name not in {*computed, *means, *undefined, LOSS}:
            raise ValueError(
                f"task {self.task.name!r} judges by {self.first.name!r}, which its metrics do not "
                f"measure: they measure {', '.join(computed) or 'nothing'}"
            )
        values, others = on_record(computed | means)
        return values, undefined | others

    def _check_declared(self, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in self.declared]
        if unknown:
            raise ValueError(
                f"task {self.task.name!r} measures {', '.join(unknown)} and does not say which way "
                "is better: name each in `judged_by`, as in Metric(name, title, heading), beside "
                f"{', '.join(sorted(self.declared))}"
            )


def declared(task: Task) -> tuple[Metric, ...]:
    """The metrics that a task declares.

    Raises:
        ValueError: `judged_by` gives no tuple of metrics, one twice, or no loss.
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
    """The measures that a record holds, and the reasons for those left out."""
    held = {name: value for name, value in values.items() if is_number(value)}
    return held, {name: _reason(value) for name, value in values.items() if name not in held}


def _reason(value: float) -> str:
    if math.isnan(value):
        return "it is not a number: the data do not define it"
    return f"it is {value:.3g}, beyond {LARGEST:g}, the largest number that a record holds"


def _alone(tensor: Tensor) -> Tensor:
    """A tensor on the CPU with its own memory: a view would hold the memory of the whole tensor."""
    tensor = tensor.cpu()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


# Marks the end of the outputs.
END = ()
SAME = "evaluate both models on the same split with the same batch_size"


def _fitting(outputs: Any, dense: Any) -> Any:
    """The outputs of the dense model on the same batch, moved to the device of `outputs`."""
    own = tensors(outputs)
    shapes, expected = ([tuple(t.shape) for t in each] for each in (own, tensors(dense)))
    if shapes != expected:
        raise ValueError(
            f"outputs of shape {shapes} do not match the reference's {expected or 'end'}: {SAME}"
        )
    devices = iter([tensor.device for tensor in own])
    return with_tensors(dense, lambda tensor: tensor.to(next(devices)))


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


def _check_finite(outputs: Any, examples: int) -> None:
    found = tensors(outputs)
    if not found:
        raise ValueError(
            f"`forward` of the task gives a {type(outputs).__name__} in which no tensor is seen: "
            "give tensors, alone or in tuples, lists and mappings"
        )
    for output in found:
        finite = torch.isfinite(output)
        if bool(finite.all()):
            continue
        raise ValueError(
            f"{int((~finite).sum())} of {output.numel()} outputs in the batch that starts at "
            f"example {examples} are NaN or infinite; such a model has no quality to report. "
            "Compress less, or leave sensitive layers out with `where`."
        )
