"""A class of each pixel, by a model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.class_metrics import IGNORED
from lowrank.tasks.heads.inputs import Encoded, column_of
from lowrank.tasks.heads.targets import ScoredClasses
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.segmentation_scores import PIXEL_METRICS, PixelScores
from lowrank.tasks.splits import check_text
from lowrank.tasks.task import loss_metric

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection


@dataclass(frozen=True)
class MaskTargets(ScoredClasses):
    """The class of each pixel, as AutoModelForSemanticSegmentation scores it.

    Masks are brought to the size of the model's inputs by its image processor, and scores to the
    size of the masks, bilinear, as in the model's own loss: all numbers are of that size. Pixels
    whose class is the config's `semantic_loss_ignore_index` are in no mean.

    Args:
        column: that of grey images whose values are classes.
    """

    one = "pixel"

    column: str = "annotation"

    def __post_init__(self) -> None:
        check_text("column", self.column)

    def answers(self, data: Dataset, source: Pretrained) -> Sequence[Any]:
        return column_of(data, self.column)

    def batch(
        self, wanted: list[Any], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        for row, mask in zip(rows, wanted, strict=True):
            if getattr(mask, "mode", None) not in ("L", "P", "I", "I;16"):
                raise ValueError(
                    f"column {self.column!r} must hold masks of one grey value for each class, and "
                    f"row {row} has {mask!r:.80}"
                )
        if encoded.images is None:
            raise ValueError("masks need inputs that are images, such as ImageInputs()")
        for row, image, mask in zip(rows, encoded.images, wanted, strict=True):
            if image.size != mask.size:
                raise ValueError(
                    f"row {row} has an image of {image.size} and a mask of {mask.size}"
                )
        maps = [np.array(mask) for mask in wanted]
        found = source.image_processor(
            images=encoded.images, segmentation_maps=maps, return_tensors="pt"
        )
        labels = found["labels"].long()
        ignored = getattr(source.config, "semantic_loss_ignore_index", 255)
        labels = labels.masked_fill(labels == ignored, IGNORED)
        largest, classes = int(labels.max()), self.classes(source)
        if largest >= classes:
            row = rows[int((labels == largest).flatten(1).any(dim=1).nonzero()[0])]
            raise ValueError(
                f"the mask in row {row} has class {largest}, and model {source.name!r} has "
                f"{classes} classes from 0"
            )
        return Batch(encoded.inputs, labels, encoded.real)

    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> Tensor:
        scores = batch.run(model).logits
        size = batch.targets.shape[1:]
        return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)

    def judged_by(self, source: Pretrained) -> tuple[Metric, ...]:
        return (*PIXEL_METRICS, loss_metric("pixel"), *agreement_metrics("pixel"))

    def metrics(self, source: Pretrained) -> MetricCollection:
        """mean_iou, class_average and pixel_accuracy; see `segmentation_scores`."""
        return PixelScores(self.classes(source), None, everywhere=False).collection()

    def count(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        metrics.update(outputs, targets)

    def influences(self, metrics: MetricCollection) -> dict[str, np.ndarray]:
        pixels: Any = metrics["pixels"]
        return pixels.influences()
