"""What is wanted of a model of transformers: the interface, and scores of classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.tasks.agreement import agreement_metrics, class_agreement, class_divergence
from lowrank.tasks.class_metrics import (
    IGNORED,
    class_collection,
    class_metrics,
    class_outcomes,
)
from lowrank.tasks.heads.inputs import Encoded
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.task import loss_metric

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torchmetrics import MetricCollection


class Targets(ABC):
    """The right outputs of a model, and by what its own are judged; each final class is a frozen
    dataclass. Its methods are those of `lowrank.tasks.Task` with the same names; `source` is the
    pretrained model with its processors.
    """

    @abstractmethod
    def answers(self, data: Dataset, source: Pretrained) -> Sequence[Any]:
        """What is wanted of each row.

        Raises:
            ValueError: a missing column, a row that holds something else, or a model that cannot
                give it.
        """

    @abstractmethod
    def batch(
        self, wanted: list[Any], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        """A batch of what is given and wanted.

        Args:
            wanted: some of `answers`.
            rows: their numbers.
        """

    @abstractmethod
    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> Any:
        """As `Task.forward`."""

    def predict(self, model: nn.Module, batch: Batch, source: Pretrained) -> Any:
        return self.outputs(model, batch, source)

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor: ...

    @abstractmethod
    def predictions(self, batch: Batch) -> Tensor: ...

    @abstractmethod
    def outcomes(self, outputs: Any, batch: Batch) -> dict[str, Tensor]: ...

    @abstractmethod
    def agreement(self, outputs: Any, dense: Any, batch: Batch) -> dict[str, Tensor]: ...

    @abstractmethod
    def distance(self, outputs: Any, dense: Any, batch: Batch) -> Tensor: ...

    @abstractmethod
    def judged_by(self, source: Pretrained) -> tuple[Metric, ...]: ...

    @abstractmethod
    def metrics(self, source: Pretrained) -> MetricCollection: ...

    def count(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        metrics.update(outputs, targets)

    def influences(self, metrics: MetricCollection) -> dict[str, np.ndarray]:
        return {}

    def example(self, inputs: Any, source: Pretrained) -> Any:
        """The arguments of one forward pass of the model, of the inputs of a batch."""
        return inputs

    def protocol(self) -> dict[str, Any]:
        return {}


class ScoredClasses(Targets):
    """Classes: outputs are logits (batch, classes, …), targets class numbers (batch, …), `IGNORED`
    where no class is wanted. Loss, agreement and distance are means over the others.

    Attributes:
        one: the word for what has a class.
    """

    one: ClassVar[str] = "example"

    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> Tensor:
        return batch.run(model).logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy, in nats; 0 if no class is wanted."""
        total = F.cross_entropy(outputs, targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    def predictions(self, batch: Batch) -> Tensor:
        return (batch.targets != IGNORED).reshape(len(batch), -1).sum(dim=1)

    def outcomes(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return class_outcomes(outputs, batch.targets)

    def agreement(self, outputs: Tensor, dense: Tensor, batch: Batch) -> dict[str, Tensor]:
        """ "flipped" and "kl" where a class is wanted."""
        return class_agreement(*_counted(batch, outputs, dense))

    def distance(self, outputs: Tensor, dense: Tensor, batch: Batch) -> Tensor:
        """KL(dense ‖ model), the mean where a class is wanted."""
        return class_divergence(*_counted(batch, outputs, dense))

    def judged_by(self, source: Pretrained) -> tuple[Metric, ...]:
        classes = class_metrics(self.classes(source))
        return (*classes, loss_metric(self.one), *agreement_metrics(self.one))

    def metrics(self, source: Pretrained) -> MetricCollection:
        """top1, macro_recall and macro_f1."""
        return class_collection(self.classes(source))

    def count(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        counted = targets != IGNORED
        if bool(counted.any()):
            metrics.update(outputs.movedim(1, -1)[counted], targets[counted])

    def classes(self, source: Pretrained) -> int:
        """The number of classes that the model scores."""
        return source.config.num_labels  # type: ignore[return-value]


def _counted(batch: Batch, *scores: Tensor) -> list[Tensor]:
    """The scores (predictions, classes) where a class is wanted."""
    return [each.movedim(1, -1)[batch.targets != IGNORED] for each in scores]


def class_numbers_of(
    values: Sequence[Any], names: Sequence[str] | None, source: Pretrained, column: str
) -> list[int]:
    """Class numbers of a model, from those of a dataset or from names of classes.

    Names are looked up among the model's own, without regard to case. Numbers are the model's,
    unless the model has all names of the dataset's classes: then they go by name.

    Args:
        names: the dataset's names of its numbers, if it has them.

    Raises:
        ValueError: a number or a name that the model does not have.
    """
    labels: Any = source.config.id2label or {}
    own = {str(label).lower(): number for number, label in labels.items()}
    given = [name.lower() for name in names or ()]
    is_alike = bool(given) and set(given) <= set(own)
    found = []
    for value in values:
        if isinstance(value, str):
            number = own.get(value.lower())
        elif type(value) is int and is_alike and 0 <= value < len(given):
            number = own[given[value]]
        else:
            number = value if type(value) is int and value in labels else None
        if number is None:
            raise ValueError(
                f"column {column!r} has the class {value!r:.60}, and model {source.name!r} has "
                f"{len(labels)} classes, {', '.join(map(str, list(labels.values())[:5]))} …: "
                "numbers count from 0, and -1 marks hidden labels"
            )
        found.append(number)
    return found
