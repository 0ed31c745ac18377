"""Metrics of classification: accuracies, means over the classes, and outcomes of examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.metrics.metric import Metric

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

# The target of a position whose prediction does not count, as in `F.cross_entropy`.
IGNORED = -100


def class_metrics(classes: int, top: Sequence[int] = (1,)) -> tuple[Metric, ...]:
    """The metrics that `class_collection` measures; the first is the primary one.

    Args:
        classes: the number of classes.
        top: the k of each top-k accuracy.
    """
    accuracies = (
        Metric(
            f"top{count}",
            f"top-{count} accuracy (test split)",
            f"top-{count} (%)",
            "percent",
            chance=min(count, classes) / classes,
            minor=count != top[0],
            average="mean",
        )
        for count in top
    )
    recall = Metric(
        "macro_recall",
        "macro recall (test split)",
        "macro recall (%)",
        "percent",
        chance=1 / classes,
        minor=True,
    )
    f1 = Metric("macro_f1", "macro F1 (test split)", "macro F1 (%)", "percent")
    return (*accuracies, recall, f1)


def class_collection(classes: int, top: Sequence[int] = (1,)) -> MetricCollection:
    """Accuracies, macro recall and macro F1 of scores (batch, classes) against labels (batch,).

    A top-k accuracy with k at least the number of classes is 1.
    """
    from torchmetrics import MetricCollection
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassF1Score,
        MulticlassRecall,
    )

    metrics: dict[str, Any] = {
        f"top{count}": MulticlassAccuracy(classes, top_k=min(count, classes), average="micro")
        for count in top
    }
    metrics["macro_recall"] = MulticlassRecall(classes, average="macro")
    metrics["macro_f1"] = MulticlassF1Score(classes, average="macro")
    # Its groups are of metrics that were equal on the first batch, and need not stay so.
    return MetricCollection(metrics, compute_groups=False)


def class_outcomes(scores: Tensor, targets: Tensor, top: Sequence[int] = (1,)) -> dict[str, Tensor]:
    """The outcomes of examples under scores (batch, classes, …) and class numbers (batch, …).

    "loss", the cross-entropy in nats, and "top1" and its like, 1 where the target is among the
    highest scores; with several predictions in an example, their means. With one, "predicted",
    "confidence" (the largest probability) and "target" too.

    Args:
        top: the k of each top-k accuracy.

    Returns:
        tensors (batch,).
    """
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    counted = targets != IGNORED
    found = {"loss": mean_of_counted(F.cross_entropy(wide, targets, reduction="none"), counted)}
    for count in top:
        # Of equal scores the metrics of torchmetrics take the same.
        best = (
            scores.argmax(dim=1, keepdim=True)
            if count == 1
            else scores.topk(min(count, scores.shape[1]), dim=1).indices
        )
        found[f"top{count}"] = mean_of_counted((best == targets.unsqueeze(1)).any(dim=1), counted)
    if targets.ndim == 1:
        confidence, predicted = wide.softmax(dim=1).max(dim=1)
        found |= {"predicted": predicted, "confidence": confidence, "target": targets}
    return found


def mean_of_counted(values: Tensor, counted: Tensor) -> Tensor:
    """The mean over the counted positions of each example, float64 (batch,); 0 without any."""
    weights = counted.double().flatten(1) if counted.ndim > 1 else counted.double()[:, None]
    total = (values.double().reshape(weights.shape) * weights).sum(dim=1)
    return total / weights.sum(dim=1).clamp(min=1)
