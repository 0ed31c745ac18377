"""A model, its data and its quality measure behind one small interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.model.forward import Example
from lowrank.numerics.checks import check_integer
from lowrank.tasks.agreement import OUTPUT_ERROR, output_error

if TYPE_CHECKING:
    from torchmetrics import MetricCollection
    from transformers import PreTrainedTokenizerBase

SplitName = Literal["train", "calibration", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)

# What every task measures besides its own.
LOSS = "loss"


def loss_metric(one: str = "prediction", minor: bool = True) -> Metric:
    """What `Task.loss` is on record, as the mean per prediction, or whatever `one` calls that."""
    title = f"loss (test split, mean per {one})"
    return Metric(LOSS, title, "loss", higher_is_better=False, minor=minor)


@dataclass(frozen=True)
class BatchSizes:
    """How many examples run at once where nobody says otherwise.

    Attributes:
        quality: where a model is evaluated.
        latency: where it is timed, one time for each.
    """

    quality: int
    latency: tuple[int, ...]


class Split(ABC):
    """A part of a task's data."""

    @abstractmethod
    def __len__(self) -> int:
        """Examples in this split."""

    @abstractmethod
    def batch(self, rows: Tensor) -> Batch:
        """The examples at `rows`, int64 (count,), ready for the model, on the task's device."""

    def batches(self, batch_size: int, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """All examples, each once.

        The last batch is shorter where `batch_size` does not divide the length.

        Args:
            shuffle_seed: the order is a permutation drawn with this seed; None keeps the data's.

        Raises:
            ValueError: batch_size is no whole number from 1.
        """
        check_integer("batch_size", batch_size, least=1)
        rows = torch.arange(len(self))
        if shuffle_seed is not None:
            generator = torch.Generator().manual_seed(shuffle_seed)
            rows = torch.randperm(len(self), generator=generator)
        return map(self.batch, rows.split(batch_size))


class Task(ABC):
    """What is compressed and how its quality is judged; a frozen dataclass in each final class.

    Laws: the test split shares no example with any other; validation shares none with train; the
    same configuration and seed give the same data in the same order and the same model.

    Attributes:
        batch_sizes: what its outputs let run at once, where the settings of a measure do not say.
    """

    batch_sizes: ClassVar[BatchSizes] = BatchSizes(quality=256, latency=(1, 256))

    name: str
    architecture: str
    seed: int
    device: str

    @abstractmethod
    def network(self) -> nn.Module:
        """The dense model before its weights are there: for questions about layers and shapes.

        Reads no data and trains nothing; a new one at each call, on the CPU.
        """

    @abstractmethod
    def model(self) -> nn.Module:
        """The trained dense model in eval mode on the task's device; a new one at each call."""

    @abstractmethod
    def split(self, name: SplitName) -> Split:
        """One of train, calibration, validation and test.

        Raises:
            ValueError: another name.
        """

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss over the predictions of a batch, differentiable.

        Args:
            outputs: of `forward`.
            targets: of the batch.
        """

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh quality measures; `count` updates them.

        Each is named in `judged_by`.
        """

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """The outputs of a model: a tensor such as logits (batch, classes), or several, in tuples,
        lists or mappings, each with the batch as its first axis."""
        return batch.run(model)

    def count(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        """Update `metrics` with the outputs and the targets of a batch."""
        metrics.update(outputs, targets)

    def example(self, batch_size: int = 1) -> Example:
        """Inputs from the test split for a model, such as for timing it: a tuple for
        `model(*inputs)`, or a mapping for `model(**inputs)`.

        Examples repeat where `batch_size` is more than there are.
        """
        test = self.split("test")
        return test.batch(torch.arange(batch_size) % len(test)).inputs

    def judged_by(self) -> tuple[Metric, ...]:
        """What its numbers mean; by the first the task judges, and the others follow in order.

        All that `metrics` and `agreement` measure, and the loss; no other is measured. A task that
        says nothing here judges by its loss.
        """
        return (loss_metric(minor=False), OUTPUT_ERROR)

    @property
    def draws_model(self) -> bool:
        """Whether another `seed` gives another dense model or another test split.

        As where it is trained here. Where it does not, all seeds share one measurement of it.
        """
        return True

    def check(self) -> None:
        """Find what does not fit before anything is trained or compressed; reads the data.

        Raises:
            ValueError: data that are not there, sizes of splits that they do not have, or a network
                that does not take them.
        """
        for name in SPLIT_NAMES:
            if len(self.split(name)) == 0:
                raise ValueError(f"the split {name!r} of task {self.name!r} is empty")
        self.example()

    def undefined(self) -> dict[str, str]:
        """Measures that `metrics` leaves out since these data do not define them: name → reason."""
        return {}

    def predictions(self, batch: Batch) -> int:
        """How many predictions the mean of `loss` over a batch is taken of; here its examples."""
        return len(batch)

    def agreement(self, outputs: Any, dense: Any, targets: Any) -> dict[str, Tensor]:
        """How far two models agree on a batch: by name, one number for each prediction.

        Args:
            outputs, dense: of the model and of the dense one.
        """
        del targets
        return {OUTPUT_ERROR.name: output_error(outputs, dense)}

    def distance(self, outputs: Any, dense: Any, targets: Any) -> Tensor:
        """How far a model is from the dense one, differentiable; 0 where they agree.

        The mean over the predictions of a batch. Sensitivities and light tuning use it; `agreement`
        measures.

        Args:
            outputs, dense: of the model and of the dense one.
        """
        del targets
        return output_error(outputs, dense).mean()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of a language model.

        Raises:
            ValueError: the model is none.
        """
        raise ValueError(f"task '{self.name}' has no language model, and so no tokenizer for one")

    def protocol(self) -> dict[str, Any]:
        """What a number of this task's quality depends on and its settings do not say, as JSON."""
        return {}
