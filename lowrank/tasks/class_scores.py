"""The base of tasks whose models score classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lowrank.metrics.metric import Metric
from lowrank.tasks.agreement import agreement_metrics, class_agreement, class_divergence
from lowrank.tasks.task import Task, loss_metric


class ClassScores(Task):
    """A task whose model gives logits (batch, classes, …), and whose targets are class numbers
    (batch, …)."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy, in nats."""
        return F.cross_entropy(outputs, targets)

    def agreement(self, outputs: Tensor, dense: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """ "flipped" and "kl"; see `class_agreement`."""
        del targets
        return class_agreement(outputs, dense)

    def distance(self, outputs: Tensor, dense: Tensor, targets: Tensor) -> Tensor:
        """KL(dense ‖ model), the mean over the predictions, in nats."""
        del targets
        return class_divergence(outputs, dense)

    def judged_by(self) -> tuple[Metric, ...]:
        return (loss_metric(minor=False), *agreement_metrics())
