"""A model, its data and its quality measure behind one small interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor, nn

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

SplitName = Literal["train", "calibration", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)


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
            ValueError: batch_size < 1.
        """


class Task(ABC):
    """What is compressed and how its quality is judged; a frozen dataclass in each final class.

    Laws: the test split shares no example with any other; validation shares none with train; the
    same configuration and seed give the same data in the same order and the same model.
    """

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
        """The model's outputs, such as logits of shape (batch, classes)."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over the batch, differentiable."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh quality measures with values in 0..1, updated with (outputs, targets)."""

    @abstractmethod
    def example(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Inputs from the test split for `model(*inputs)`, such as for timing it."""
