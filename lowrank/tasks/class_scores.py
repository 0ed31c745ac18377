"""The base of tasks whose models score classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.tasks.agreement import (
    agreement_metrics,
    class_agreement,
    class_divergence,
    real_of,
)
from lowrank.tasks.class_metrics import class_outcomes
from lowrank.tasks.task import Task, loss_metric


class ClassScores(Task):
    """A task whose model gives logits (batch, classes, …), and whose targets are class numbers
    (batch, …).

    Attributes:
        top: the k of each top-k accuracy among the metrics.
    """

    top: ClassVar[Sequence[int]] = (1,)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy, in nats."""
        return F.cross_entropy(outputs, targets)

    def outcomes(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """ "loss", "top1" and its like, "predicted", "confidence", "target"; see `class_outcomes`.

        A task with another loss replaces it.
        """
        return class_outcomes(outputs, batch.targets, self.top)

    def agreement(self, outputs: Tensor, dense: Tensor, batch: Batch) -> dict[str, Tensor]:
        """ "flipped" and "kl"; see `class_agreement`. Padding does not count."""
        found = class_agreement(outputs, dense)
        real = real_of(batch, found["kl"].shape)
        return found if real is None else {name: values[real] for name, values in found.items()}

    def distance(self, outputs: Tensor, dense: Tensor, batch: Batch) -> Tensor:
        """KL(dense ‖ model), the mean over the predictions, in nats. Padding does not count."""
        real = real_of(batch, outputs.shape[:1] + outputs.shape[2:])
        if real is not None:
            outputs, dense = (scores.movedim(1, -1)[real] for scores in (outputs, dense))
        return class_divergence(outputs, dense)

    def judged_by(self) -> tuple[Metric, ...]:
        return (loss_metric(minor=False), *agreement_metrics())
