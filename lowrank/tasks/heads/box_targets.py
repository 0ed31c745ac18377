"""The boxes of the objects in each image, by a model of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.tasks.boxes import Boxes
from lowrank.tasks.detector_heads import divergence, paired_overlaps
from lowrank.tasks.heads.inputs import Encoded, column_of
from lowrank.tasks.heads.targets import Targets, class_numbers_of
from lowrank.tasks.object_detection import METRICS
from lowrank.tasks.object_sources import Objects, filled_objects, objects_in
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.splits import check_text
from lowrank.tasks.task import loss_metric

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection

MASK = "pixel_mask"
DISTANCE = Metric(
    "distance",
    "distance to the dense model's classes and boxes\n(test split, nats per query)",
    "distance",
    higher_is_better=False,
    dense=0.0,
    average="mean",
)


class BoxScores(NamedTuple):
    """What a detector gives for images.

    Attributes:
        logits: (batch, queries, classes), or with a last column for no object.
        pred_boxes: (batch, queries, 4), centre, width and height in parts of the image.
        probabilities: (batch, queries, events, outcomes), the last outcome that there is no object:
            one event of all classes, or one of two outcomes for each class.
        losses: (batch,), the loss of the batch at each image.
        found: the box of each query as the image processor reads it; each tensor has the images as
            its first axis.
    """

    logits: Tensor
    pred_boxes: Tensor
    probabilities: Tensor
    losses: Tensor
    found: Boxes | None = None


@dataclass(frozen=True)
class BoxTargets(Targets):
    """The boxes and classes of the objects in each image, as AutoModelForObjectDetection finds
    them, in the hub's convention: [left, top, width, height] in pixels.

    Average precision is COCO's, of what the model's image processor reads from its outputs. The
    loss is the model's own, of a batch: it is no mean over images, since it is divided by the
    number of objects. The distance to the dense model is the mean over its queries of the
    divergence KL(dense ‖ model) of the classes and, times the dense model's probability of an
    object, 1 − intersection over union of the boxes.

    Args:
        column: that of the objects of each image.
        box, label: the fields of it; class numbers are the model's, or go by name.
    """

    column: str = "objects"
    box: str = "bbox"
    label: str = "category"

    def __post_init__(self) -> None:
        for name in ("column", "box", "label"):
            check_text(name, getattr(self, name))
        need("average precision", "torchmetrics", "pycocotools")

    def answers(self, data: Dataset, source: Pretrained) -> Sequence[dict[str, Any]]:
        if source.dtype != "float32":
            raise ValueError(
                f"the loss of model {source.name!r} matches boxes in float32 alone, and its dtype "
                f"is {source.dtype}"
            )
        rows = list(column_of(data, self.column))
        for row, said in enumerate(rows):
            if not isinstance(said, dict) or not {self.box, self.label} <= said.keys():
                raise ValueError(
                    f"column {self.column!r} must hold {self.box!r} and {self.label!r} of objects, "
                    f"and row {row} has {said!r:.80}"
                )
        flat = [number for said in rows for number in said[self.label]]
        names = _names(data.features[self.column], self.label)
        numbers = iter(class_numbers_of(flat, names, source, self.column))
        return [said | {self.label: [next(numbers) for _ in said[self.label]]} for said in rows]

    def batch(
        self, wanted: list[Any], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        if encoded.images is None:
            raise ValueError("boxes need inputs that are images, such as ImageInputs()")
        sizes = [image.size for image in encoded.images]
        each = [
            objects_in(said, size, f"row {row}", self.box, self.label)
            for said, size, row in zip(wanted, sizes, rows, strict=True)
        ]
        return Batch(encoded.inputs, filled_objects(each, sizes), encoded.real)

    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> BoxScores:
        given = replace(batch, inputs=_taken(model, batch.inputs)).fresh()
        found = model(**given.inputs, labels=_labels(batch.targets))  # type: ignore[arg-type]
        scores, count = found.logits, source.config.num_labels
        losses = found.loss.expand(len(scores))
        return BoxScores(scores, found.pred_boxes, _probabilities(scores, count), losses)  # type: ignore[arg-type]

    def predict(self, model: nn.Module, batch: Batch, source: Pretrained) -> BoxScores:
        """The scores, and what the image processor reads from them."""
        outputs = self.outputs(model, batch, source)
        # Of probabilities none is below it, so that each image has as many boxes.
        read = source.image_processor.post_process_object_detection(outputs, threshold=-1.0)
        parts = [torch.stack([one[name] for one in read]) for name in ("boxes", "scores", "labels")]
        return outputs._replace(found=Boxes(*parts))

    def loss(self, outputs: BoxScores, targets: Objects) -> Tensor:
        return outputs.losses.mean()

    def predictions(self, batch: Batch) -> Tensor:
        return torch.ones(len(batch), dtype=torch.int64)

    def outcomes(self, outputs: BoxScores, batch: Batch) -> dict[str, Tensor]:
        return {}

    def agreement(self, outputs: BoxScores, dense: BoxScores, batch: Batch) -> dict[str, Tensor]:
        """ "distance"."""
        return {DISTANCE.name: self._distances(outputs, dense)}

    def distance(self, outputs: BoxScores, dense: BoxScores, batch: Batch) -> Tensor:
        return self._distances(outputs, dense).mean()

    def judged_by(self, source: Pretrained) -> tuple[Metric, ...]:
        return (*METRICS, loss_metric("image", average=None), DISTANCE)

    def metrics(self, source: Pretrained) -> MetricCollection:
        """ap50 and ap; see `lowrank.tasks.average_precision`."""
        from torchmetrics import MetricCollection

        from lowrank.tasks.detection_metrics import AveragePrecision

        return MetricCollection({"boxes": AveragePrecision(source.config.num_labels)})  # type: ignore[arg-type]

    def count(self, metrics: MetricCollection, outputs: BoxScores, targets: Objects) -> None:
        found: Any = outputs.found
        metrics.update([Boxes(*parts) for parts in zip(*found, strict=True)], targets)

    def influences(self, metrics: MetricCollection) -> dict[str, np.ndarray]:
        boxes: Any = metrics["boxes"]
        return boxes.influences()

    def _distances(self, outputs: BoxScores, dense: BoxScores) -> Tensor:
        """Of each image, (batch,)."""
        ours, theirs = outputs.probabilities.double(), dense.probabilities.double()
        apart = divergence(*(each.flatten(0, 2) for each in (ours, theirs)))
        is_object = (1 - theirs[..., -1]).amax(dim=-1)
        boxes = [_corners(each.pred_boxes.double()) for each in (outputs, dense)]
        missed = is_object * (1 - paired_overlaps(*boxes))
        return (apart.view(ours.shape[:3]).sum(dim=-1) + missed).mean(dim=1)


def _probabilities(scores: Tensor, classes: int) -> Tensor:
    """See `BoxScores`; of scores of classes alone, each is one of its own."""
    if scores.shape[-1] > classes:
        return scores.softmax(dim=-1).unsqueeze(-2)
    return torch.stack([scores.sigmoid(), (-scores).sigmoid()], dim=-1)


def _names(feature: Any, label: str) -> list[str] | None:
    """The names of the classes of objects; `datasets` has lists of fields, and fields of lists."""
    fields = getattr(feature, "feature", feature)
    number = fields.get(label) if isinstance(fields, dict) else None
    return getattr(getattr(number, "feature", number), "names", None)


def _taken(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """The inputs without a mask of padding that the model does not take.

    Raises:
        ValueError: there is padding, so that its outputs would depend on the other images.
    """
    mask = inputs.get(MASK)
    if mask is None or MASK in inspect.signature(model.forward).parameters:
        return dict(inputs)
    if not bool(mask.all()):
        raise ValueError(
            f"the images of a batch are of several sizes, and {type(model).__name__} does not take "
            "which of their pixels are padding: give the image processor one size of height and "
            "width"
        )
    return {name: value for name, value in inputs.items() if name != MASK}


def _labels(objects: Objects) -> list[dict[str, Tensor]]:
    """The objects of each image as models of transformers take them."""
    labels = []
    for corners, classes in zip(objects.corners, objects.classes, strict=True):
        own = corners[classes >= 0].float()
        middles, sides = (own[:, :2] + own[:, 2:]) / 2, own[:, 2:] - own[:, :2]
        boxes = torch.cat([middles, sides], dim=1)
        labels.append({"class_labels": classes[classes >= 0], "boxes": boxes})
    return labels


def _corners(boxes: Tensor) -> Tensor:
    """Left, top, right and bottom of boxes by their centre, width and height."""
    middles, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middles - half, middles + half], dim=-1)
