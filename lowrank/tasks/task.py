"""The interface of tasks: a model, its data and its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from lowrank.metrics.metric import Average, Metric
from lowrank.model.batch import Batch
from lowrank.model.forward import Example
from lowrank.model.nested import examples_of
from lowrank.numerics.checks import check_integer
from lowrank.tasks.agreement import OUTPUT_ERROR, output_error
from lowrank.tasks.groupings import Grouping

if TYPE_CHECKING:
    import numpy as np
    from torchmetrics import MetricCollection
    from transformers import PreTrainedTokenizerBase

SplitName = Literal["train", "calibration", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)

# The metrics of every task, beside its own.
LOSS = "loss"


def check_split(name: object) -> None:
    """Raise ValueError unless it is the name of a split."""
    if name not in SPLIT_NAMES:
        raise ValueError(f"there is no split {name!r}; there are {', '.join(SPLIT_NAMES)}")


def loss_metric(
    one: str = "prediction", minor: bool = True, average: Average | None = "mean"
) -> Metric:
    """The metric of `Task.loss` in records.

    Args:
        one: the unit of its mean, such as a token.
        average: None if the loss of a batch is not the mean of the losses of its examples, as of a
            contrastive one.
    """
    title = f"loss (test split, mean per {one})"
    return Metric(LOSS, title, "loss", higher_is_better=False, minor=minor, average=average)


@dataclass(frozen=True)
class BatchSizes:
    """The default numbers of examples that run at once.

    Attributes:
        quality: the number in an evaluation.
        latency: the numbers at which a model is timed.
    """

    quality: int
    latency: tuple[int, ...]


class Split(ABC):
    """A part of a task's data."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of examples."""

    @abstractmethod
    def batch(self, rows: Tensor) -> Batch:
        """The batch of the examples at `rows`, int64 (count,), on the task's device."""

    def batches(self, batch_size: int, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """The batches of all examples, each example once.

        The last batch is shorter if `batch_size` does not divide the length.

        Args:
            shuffle_seed: draws the order of the examples; None keeps that of the data.

        Raises:
            ValueError: batch_size is no whole number from 1.
        """
        check_integer("batch_size", batch_size, least=1)
        rows = torch.arange(len(self))
        if shuffle_seed is not None:
            generator = torch.Generator().manual_seed(shuffle_seed)
            rows = torch.randperm(len(self), generator=generator)
        return map(self._checked, rows.split(batch_size))

    def _checked(self, rows: Tensor) -> Batch:
        batch = self.batch(rows)
        if len(batch) != len(rows):
            raise ValueError(
                f"{type(self).__name__}.batch gives {len(batch)} examples for {len(rows)} rows: "
                "the first axis of each input must be that of the examples"
            )
        return batch


class Task(ABC):
    """A model to compress, its data and its metrics; each final class is a frozen dataclass.

    Laws: the test split shares no example with any other; validation shares none with train; the
    same configuration and seed give the same data in the same order and the same model.

    Attributes:
        batch_sizes: the defaults of batch sizes in measures, as large as the outputs allow.
    """

    batch_sizes: ClassVar[BatchSizes] = BatchSizes(quality=256, latency=(1, 256))

    name: str
    architecture: str
    seed: int
    device: str

    @abstractmethod
    def network(self) -> nn.Module:
        """The dense model without its trained weights, for checks of layers and shapes.

        Reads no data and trains nothing; each call makes a new one, on the CPU.
        """

    @abstractmethod
    def model(self) -> nn.Module:
        """The trained dense model in eval mode on the task's device; each call makes a new one."""

    @abstractmethod
    def split(self, name: SplitName) -> Split:
        """One of train, calibration, validation and test.

        Raises:
            ValueError: another name.
        """

    def whole_test(self) -> Split | None:
        """The whole test data, if `split("test")` leaves out a part of them; else None.

        Published figures are of the whole, so records have those of the dense model beside.
        """
        return None

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss over the predictions of a batch, differentiable.

        Args:
            outputs: of `forward`.
            targets: of the batch.
        """

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """New metrics, which `count` updates.

        Each is named in `judged_by`.
        """

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """The outputs of a model: a tensor such as logits (batch, classes), or several, in tuples,
        lists or mappings, each with the batch as its first axis."""
        return batch.run(model)

    def predict(self, model: nn.Module, batch: Batch) -> Any:
        """What `metrics` judge; by default the outputs of `forward`, which `loss` takes."""
        return self.forward(model, batch)

    def count(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        """Update `metrics` with the outputs of `predict` and the targets of a batch."""
        metrics.update(outputs, targets)

    def influences(self, metrics: MetricCollection) -> dict[str, np.ndarray]:
        """By name the influence of each example on a metric that is no mean of examples, such as
        BLEU, (examples,); it has `average="mean"`. See `lowrank.statistics.jackknife`."""
        return {}

    def example(self, batch_size: int = 1) -> Example:
        """Inputs from the test split, for example to time a model: a tuple for `model(*inputs)`, or
        a mapping for `model(**inputs)`.

        Examples repeat if `batch_size` is larger than the split.
        """
        test = self.split("test")
        return test.batch(torch.arange(batch_size) % len(test)).inputs

    def judged_by(self) -> tuple[Metric, ...]:
        """The metrics of the task: name, unit, direction; the first is the primary one.

        They are all that `metrics` and `agreement` measure, and the loss; others are refused. By
        default the loss is the primary one.
        """
        return (loss_metric(minor=False), OUTPUT_ERROR)

    @property
    def draws_model(self) -> bool:
        """Whether another `seed` gives another dense model or another test split.

        It does for a model that is trained here. If it does not, all seeds share one measured dense
        model.
        """
        return True

    def check(self) -> None:
        """Check that data, splits and network fit, before any training or compression; reads the
        data.

        Raises:
            ValueError: missing data, splits larger than the data, or a network that does not take
                them.
        """
        for name in SPLIT_NAMES:
            if len(self.split(name)) == 0:
                raise ValueError(f"the split {name!r} of task {self.name!r} is empty")
        self.example()

    def undefined(self) -> dict[str, str]:
        """The metrics left out because the data do not define them: name → reason."""
        return {}

    def predictions(self, batch: Batch) -> Tensor:
        """How many predictions of each example `loss` is the mean of, int64 (batch,); here one."""
        return torch.ones(len(batch), dtype=torch.int64)

    def outcomes(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """The outcomes of single examples by name, each (batch,): of each metric with an `average`
        the value that is averaged; of each of `groupings` the mean losses (batch, groups).

        By default the loss of each example, from calls of `loss` for one example each, unless the
        metric of the loss is no average. Of an example without predictions any number will do.

        Args:
            outputs: of `forward` on the batch.
        """
        if all(metric.average is None for metric in self.judged_by() if metric.name == LOSS):
            return {}
        rows = [slice(row, row + 1) for row in range(len(batch))]
        losses = [
            self.loss(examples_of(outputs, row), examples_of(batch.targets, row)) for row in rows
        ]
        return {LOSS: torch.stack(losses)}

    def groupings(self) -> tuple[Grouping, ...]:
        """The groupings by which the loss of the predictions is broken down; by default none."""
        return ()

    def prompts(self, count: int, given: int, written: int) -> Tensor:
        """Beginnings of test texts for a language model to continue, int64 (count, given).

        Args:
            written: the number of tokens that it will write.

        Raises:
            ValueError: the model is none, or the test split has no such texts.
        """
        raise ValueError(f"task '{self.name}' has no language model to continue a text")

    def agreement(self, outputs: Any, dense: Any, batch: Batch) -> dict[str, Tensor]:
        """The agreement of two models on a batch: by name, one number for each prediction.

        That on record is the mean over all predictions. One number for each example will do too;
        each then counts as often as it has predictions.

        Args:
            outputs, dense: of the model and of the dense one.
        """
        return {OUTPUT_ERROR.name: output_error(outputs, dense, batch)}

    def distance(self, outputs: Any, dense: Any, batch: Batch) -> Tensor:
        """The distance of a model to the dense one, differentiable; 0 if their outputs are equal.

        The mean over the predictions of a batch. Sensitivities and light tuning use it; `agreement`
        measures.

        Args:
            outputs, dense: of the model and of the dense one.
        """
        return output_error(outputs, dense, batch).mean()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of a language model.

        Raises:
            ValueError: the model is none.
        """
        raise ValueError(f"task '{self.name}' has no language model, and so no tokenizer for one")

    def write_example(self, model: nn.Module, row: int, stem: Path) -> list[Path]:
        """Write what a model makes of a test example, such as a sound, at a path without ending."""
        return []

    def protocol(self) -> dict[str, Any]:
        """Facts on which the metrics depend and which the settings do not hold, as JSON."""
        return {}
