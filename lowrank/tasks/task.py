"""A model, its data and its quality measure behind one small interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from lowrank.metrics.metric import Metric
from lowrank.tasks.agreement import agreement_metrics, class_agreement, class_divergence

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
    def batches(
        self, batch_size: int, shuffle_seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, targets) ready for the model, on the task's device, each example once.

        The last batch is shorter where `batch_size` does not divide the length.

        Args:
            shuffle_seed: the order is a permutation drawn with this seed; None keeps the data's.

        Raises:
            ValueError: batch_size is no whole number from 1.
        """


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
    def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """The model's outputs, such as logits of shape (batch, classes).

        Of a language model they have shape (batch, length, vocabulary).
        """

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over the predictions of a batch, differentiable."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh quality measures, updated with (outputs, targets).

        Each is named in `judged_by`.
        """

    @abstractmethod
    def example(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Inputs from the test split for `model(*inputs)`, such as for timing it.

        What the model returns for them need not be a tensor.
        """

    def judged_by(self) -> tuple[Metric, ...]:
        """What its numbers mean; by the first the task judges, and the others follow in order.

        All that `metrics` and `agreement` measure, and the loss; no other is measured. A task that
        says nothing here judges by its loss.
        """
        return (loss_metric(minor=False), *agreement_metrics())

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

    def mask(self, inputs: Tensor) -> Tensor | None:
        """Boolean, the shape of (batch, length): True where a position is real and not padding.

        Calibration leaves the others out. None where all are real, or there are no positions.
        """
        del inputs
        return None

    def predictions(self, targets: Tensor) -> int:
        """How many predictions the mean of `loss` over a batch is taken of."""
        return len(targets)

    def observe(self, model: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
        """What `agreement` compares: the outputs of `forward`, first, and whatever else it needs.

        The first axis of each is the batch.
        """
        return (self.forward(model, inputs),)

    def agreement(
        self, observed: tuple[Tensor, ...], dense: tuple[Tensor, ...], targets: Tensor
    ) -> dict[str, Tensor]:
        """How far two models agree on a batch: by name, one number for each prediction.

        Here outputs are scores of classes along axis 1; see `class_agreement`.

        Args:
            observed, dense: what `observe` gives for the model and for the dense one.
        """
        del targets
        return class_agreement(observed[0], dense[0])

    def distance(
        self, observed: tuple[Tensor, ...], dense: tuple[Tensor, ...], targets: Tensor
    ) -> Tensor:
        """How far a model is from the dense one, differentiable; 0 where they agree.

        The mean over the predictions of a batch of KL(dense ‖ model) in nats. Sensitivities and
        light tuning use it; `agreement` measures.

        Args:
            observed, dense: what `observe` gives for the model and for the dense one.
        """
        del targets
        return class_divergence(observed[0], dense[0])

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
