"""Scores of classes of pixels, from counts of what was predicted for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowrank.metrics.metric import Metric
from lowrank.tasks.class_metrics import IGNORED

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

PIXEL_METRICS = (
    Metric(
        "mean_iou", "mean intersection over union (test split)", "mIoU", "percent", average="mean"
    ),
    Metric(
        "class_average",
        "share of each class that is found, mean (test split)",
        "class average (%)",
        "percent",
        minor=True,
        average="mean",
    ),
    Metric(
        "pixel_accuracy",
        "share of labelled pixels that are found (test split)",
        "pixel accuracy (%)",
        "percent",
        average="mean",
    ),
)


class SegmentationScores(NamedTuple):
    """Scores in [0, 1]; of no pixel at all they are NaN.

    Attributes:
        mean_iou: intersection over union, the mean over the classes that occur.
        class_average: share of the pixels of a class that are found, the mean over the classes that
            have pixels.
        pixel_accuracy: share of all labelled pixels that are found.
    """

    mean_iou: float
    class_average: float
    pixel_accuracy: float


def pixel_confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How often each class (column) was predicted for each label (row), int64 (classes, classes).

    The counts of images can be summed up.

    Args:
        predicted, labels: integers of one shape, in 0..classes − 1.

    Raises:
        ValueError: the shapes differ, or a number is no class.
    """
    if predicted.shape != labels.shape:
        raise ValueError(
            f"predicted classes of shape {tuple(predicted.shape)} and labels of shape "
            f"{tuple(labels.shape)} must be of the same pixels"
        )
    for name, values in {"predicted": predicted, "labels": labels}.items():
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise ValueError(
                f"{name} lie in {int(values.min())}..{int(values.max())}, and there are {classes} "
                "classes from 0"
            )
    pairs = classes * labels.long() + predicted
    return pairs.flatten().bincount(minlength=classes**2).view(classes, classes)


def segmentation_scores(
    confusion: Tensor, ignored: int | None = None, everywhere: bool = True
) -> SegmentationScores:
    """The scores of what `pixel_confusion` counts.

    Args:
        confusion: (classes, classes), labels by predictions.
        ignored: the label of pixels without a class, which is none in the means; where it is
            predicted for a pixel that has a class, that pixel is missed.
        everywhere: whether the predictions of classes for pixels without one count as wrong ones,
            as in ESPNet's published values; else these pixels are left out.
    """
    counts = confusion.to(torch.float64)
    if ignored is not None and not everywhere:
        counts[ignored] = 0
    found, labelled, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    is_class = torch.ones(len(counts), dtype=torch.bool, device=counts.device)
    if ignored is not None:
        is_class[ignored] = False
    found, labelled, predicted = (each[is_class] for each in (found, labelled, predicted))
    iou = found / (labelled + predicted - found)
    recall = found / labelled
    accuracy = found.sum() / labelled.sum()
    return SegmentationScores(float(iou.nanmean()), float(recall.nanmean()), float(accuracy))


@dataclass(frozen=True)
class PixelScores:
    """The metrics of scores (batch, classes, height, width) against labels (batch, height, width),
    with the influences of images.

    Args:
        ignored, everywhere: as in `segmentation_scores`. Pixels that are `IGNORED` count as those
            labelled `ignored`, and are left out if that is None.
    """

    classes: int
    ignored: int | None
    everywhere: bool

    def collection(self) -> MetricCollection:
        """mean_iou, class_average and pixel_accuracy."""
        from torchmetrics import MetricCollection

        from lowrank.tasks.summed_scores import SummedScores

        names = [metric.name for metric in PIXEL_METRICS]
        return MetricCollection({"pixels": SummedScores(names, self._counts, self._score)})

    def _counts(self, outputs: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        pairs = zip(outputs.argmax(dim=1), targets, strict=True)
        counts = torch.stack([self._confusion(*pair) for pair in pairs]).double().cpu().numpy()
        return {metric.name: counts for metric in PIXEL_METRICS}

    def _confusion(self, predicted: Tensor, labels: Tensor) -> Tensor:
        counted = labels != IGNORED
        if self.ignored is None:
            predicted, labels = predicted[counted], labels[counted]
        else:
            labels = labels.masked_fill(~counted, self.ignored)
        return pixel_confusion(predicted, labels, self.classes).flatten()

    def _score(self, name: str, sums: np.ndarray) -> float:
        confusion = torch.from_numpy(sums).view(self.classes, self.classes)
        return getattr(segmentation_scores(confusion, self.ignored, self.everywhere), name)
