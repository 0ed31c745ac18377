"""Metrics of classification: accuracies, and means over the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import Metric

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


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
