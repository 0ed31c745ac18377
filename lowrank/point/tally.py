"""The sums and the outcomes of examples behind a model's quality."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowrank.metrics.metric import LARGEST, Metric, check_names
from lowrank.model.batch import Batch
from lowrank.model.nested import examples_of
from lowrank.point.examples import (
    TARGET,
    ExampleValues,
    Gathered,
    of_examples,
)
from lowrank.records.checks import is_number
from lowrank.records.columns import COSTS
from lowrank.records.outcomes import CONFIDENCE, PREDICTED
from lowrank.tasks.task import LOSS

if TYPE_CHECKING:
    from lowrank.tasks.task import Task

# A metric and the mean of its outcomes differ by the rounding of float32 only, relative to values
# above 1; one of 50,000 examples that counts otherwise is seen.
TOLERANCE = 1e-5


class Tally:
    """The sums behind a model's quality, over the batches of a split.

    Attributes:
        examples: the number of examples so far.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.first, *_ = metrics = declared(task)
        self.declared = {metric.name for metric in metrics}
        self.averaged = {one.name: one.average for one in metrics if one.average is not None}
        self.metrics = task.metrics()
        self.groupings = task.groupings()
        self.gathered = Gathered()
        self.loss, self.counted, self.examples = 0.0, 0, 0
        # The loss of a batch is rounded to its dtype, which may be bfloat16.
        self.rounding = TOLERANCE
        # The names of the agreement; None until a model is compared with the dense one.
        self.compared: set[str] | None = None

    def add(self, outputs: Any, batch: Batch, dense: Any | None) -> None:
        """Add a batch, and the agreement with the outputs `dense` if they are given."""
        targets, weights = batch.targets, self.task.predictions(batch)
        if not isinstance(weights, Tensor) or weights.shape != (len(batch),):
            raise ValueError(
                f"task {self.task.name!r}: predictions() must be a tensor with the number of each "
                f"of the {len(batch)} examples"
            )
        self.examples += len(batch)
        self.task.count(self.metrics, outputs, targets)
        predictions = int(weights.sum())
        if predictions:
            loss = self.task.loss(outputs, targets)
            self.rounding = max(self.rounding, torch.finfo(loss.dtype).eps)
            self.loss += float(loss) * predictions
            self.counted += predictions
        values = {
            name: numbers
            for name, numbers in self.task.outcomes(outputs, batch).items()
            if name in {*self.declared, *(one.name for one in self.groupings)}
            or name in (PREDICTED, CONFIDENCE, TARGET)
        }
        if dense is not None:
            agreement = self._agreement(outputs, dense, batch, weights)
            self.compared = (self.compared or set()) | agreement.keys()
            values |= agreement
        self._check_shapes(values, len(batch))
        self.gathered.add(values, weights, batch, self.groupings)

    def _agreement(
        self, outputs: Any, dense: Any, batch: Batch, weights: Tensor
    ) -> dict[str, Tensor]:
        """The agreement on each example, (batch,)."""
        agreement = self.task.agreement(outputs, dense, batch)
        self._check_declared(agreement)
        found = {name: of_examples(numbers, weights) for name, numbers in agreement.items()}
        if None not in found.values():
            return {name: numbers for name, numbers in found.items() if numbers is not None}
        # Which numbers are of which example is seen only from one at a time.
        rows = [slice(row, row + 1) for row in range(len(batch))]
        alone = [
            self.task.agreement(examples_of(outputs, row), examples_of(dense, row), batch.part(row))
            for row in rows
        ]
        return {name: torch.stack([one[name].double().mean() for one in alone]) for name in found}

    def results(self) -> tuple[dict[str, float], dict[str, str]]:
        """The measures that a record holds, and the reasons for those left out."""
        computed = {name: float(value) for name, value in self.metrics.compute().items()}
        self._check_declared(computed)
        means = {LOSS: self.loss / self.counted if self.counted else math.nan}
        means |= {name: self.gathered.mean(name) for name in self.compared or ()}
        undefined = self.task.undefined()
        twice = sorted(computed.keys() & means.keys())
        if twice:
            raise ValueError(
                f"task {self.task.name!r}: its metrics and what is measured beside them have one "
                f"name, {', '.join(twice)}: give its own another"
            )
        # What says how far a model is from the dense one is not measured of one model alone.
        is_alone = self.first.dense is not None and self.compared is None
        if not is_alone and self.first.name not in {*computed, *means, *undefined, LOSS}:
            raise ValueError(
                f"task {self.task.name!r} judges by {self.first.name!r}, which its metrics do not "
                f"measure: they measure {', '.join(computed) or 'nothing'}"
            )
        values, others = on_record(computed | means)
        for name, influences in self.task.influences(self.metrics).items():
            if name in values:
                self.gathered.influence(name, values[name], influences)
        self._check_averages(values)
        return values, undefined | others

    def outcomes(self, values: Mapping[str, float]) -> ExampleValues:
        """The outcomes of the examples, of the metrics that are on record."""
        return self.gathered.result(self.averaged.keys() & values.keys())

    def _check_averages(self, values: Mapping[str, float]) -> None:
        """Raise ValueError unless each metric that is an average is that of its outcomes."""
        for name in self.averaged.keys() & values.keys():
            how, value = self.averaged[name], values[name]
            if name not in self.gathered.values:
                raise ValueError(
                    f"task {self.task.name!r}: metric {name!r} has average={how!r}, and `outcomes` "
                    "gives no values of it: give them, or leave average out"
                )
            mean = self.gathered.mean(name)
            if how == "exp" and value <= 0:
                raise ValueError(
                    f"task {self.task.name!r}: metric {name!r} has average='exp', so it is above "
                    f"0, and {value:.6g} was measured: mend the metric, or set average='mean' or "
                    "None"
                )
            value = math.log(value) if how == "exp" else value
            tolerance = self.rounding if name == LOSS else TOLERANCE
            if abs(mean - value) > tolerance * max(abs(value), 1.0):
                raise ValueError(
                    f"task {self.task.name!r}: metric {name!r} has average={how!r}, and the mean "
                    f"of its outcomes, weighted by `predictions`, is {mean:.6g} where {value:.6g} "
                    "was measured: mend `outcomes` or `predictions`, or set average=None, as in "
                    "loss_metric(average=None)"
                )

    def _check_shapes(self, values: Mapping[str, Tensor], count: int) -> None:
        widths = {one.name: len(one.labels) for one in self.groupings}
        for name, width in widths.items():
            if name not in values or values[name].shape != (count, width):
                raise ValueError(
                    f"task {self.task.name!r}: outcomes() must give the mean losses of the groups "
                    f"of {name!r}, ({count}, {width})"
                )
        for name in values.keys() - widths.keys():
            numbers = values[name]
            if not isinstance(numbers, Tensor) or numbers.shape != (count,):
                raise ValueError(
                    f"task {self.task.name!r}: outcomes() must give one {name} for each of the "
                    f"{count} examples"
                )

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
