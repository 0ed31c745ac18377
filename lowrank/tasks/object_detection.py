"""Detection: boxes around the objects in an image and their classes, by any network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.model.forward import call
from lowrank.numerics.checks import check_integer, check_is
from lowrank.tasks.builders import bound
from lowrank.tasks.detector_heads import DetectorHead, GridHead
from lowrank.tasks.object_sources import HubObjects, ImagesOfObjects, Objects
from lowrank.tasks.own_network import OwnNetwork
from lowrank.tasks.splits import check_division, named
from lowrank.tasks.task import BatchSizes, Split, loss_metric
from lowrank.tasks.weights import Weights
from lowrank.tasks.whole_data import HubPart, OfParts

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

METRICS = (
    Metric(
        "ap50",
        "average precision at an overlap of 0.5 (test split)",
        "AP50",
        "percent",
        average="mean",
    ),
    Metric(
        "ap",
        "average precision, mean over overlaps of 0.5 to 0.95 (test split)",
        "AP",
        "percent",
        average="mean",
    ),
)
DISTANCE = Metric(
    "distance",
    "distance to the dense model's objectness, classes and boxes\n(test split, nats per cell)",
    "distance",
    higher_is_better=False,
    dense=0.0,
    average="mean",
)


@dataclass(frozen=True)
class ObjectSplit(Split):
    """Rows of images, made into inputs batch by batch, and their objects."""

    images: ImagesOfObjects
    rows: Tensor
    make: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Tensor) -> Batch:
        rows = self.rows[rows.to(self.rows.device)]
        objects = Objects(*(values[rows] for values in self.images.objects))
        return Batch((self.make(self.images.pixels[rows]),), objects)


@dataclass(frozen=True)
class ObjectDetection(OwnNetwork, OfParts):
    """A network that finds the objects in an image.

    Splits are those of the source; `calibration` is a part of `train`. Average precision is COCO's,
    of the 100 boxes of an image with the highest scores and objects of any size. The loss and the
    distance to the dense model are those of the head.

    Args:
        name: the name of the task in records; the dataset's if None.
        architecture: the network's name in records.
        source: images and boxes.
        classes: their number.
        inputs: ``package.module:function`` from uint8 (batch, 3, height, width) and
            `input_arguments` to what the network takes.
        builder: ``package.module:function`` (or a class) that makes the network, given `arguments`.
        weights: the source of the network's weights; None keeps those of the builder.
        head: what the network's outputs mean.
        calibration_size: all of `train` if not given.
        calibration_seed: draws `calibration` from `train`; by default the first images are taken.
        seed: the seed of the initial weights and the order of batches.

    Raises:
        ValueError: an option of the wrong kind; from the methods, classes that are not below
            `classes`, or a network that does not fit the images, its head or its weights.
    """

    units = "images"
    batch_sizes = BatchSizes(quality=16, latency=(1,))

    name: str | None  # never None after __post_init__
    architecture: str
    source: HubObjects
    classes: int
    inputs: str
    builder: str
    weights: Weights | None
    head: DetectorHead = field(default_factory=GridHead)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input_arguments: Mapping[str, Any] = field(default_factory=dict)
    calibration_size: int | None = None
    calibration_seed: int | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_is("source", self.source, HubObjects, "HubObjects('me/photos', 352, 352)")
        check_is("head", self.head, DetectorHead, "GridHead()")
        object.__setattr__(self, "name", named(self.name, self.source.name))
        self._check_network()
        self._check_function("inputs", "input_arguments")
        check_integer("classes", self.classes, least=1)
        check_division(None, self.calibration_size, self.calibration_seed)
        need("average precision", "torchmetrics", "pycocotools")

    def loss(self, outputs: Any, targets: Objects) -> Tensor:
        """The mean over the images of the loss of the head."""
        return self.head.losses(outputs, targets).mean()

    def outcomes(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """ "loss"."""
        return {"loss": self.head.losses(outputs, batch.targets)}

    def agreement(self, outputs: Any, dense: Any, batch: Batch) -> dict[str, Tensor]:
        """ "distance", that of the head."""
        return {DISTANCE.name: self.head.distances(outputs, dense)}

    def distance(self, outputs: Any, dense: Any, batch: Batch) -> Tensor:
        return self.head.distances(outputs, dense).mean()

    def judged_by(self) -> tuple[Metric, ...]:
        return (*METRICS, loss_metric("image"), DISTANCE)

    def metrics(self) -> MetricCollection:
        """ap50 and ap; see `lowrank.tasks.average_precision`."""
        from torchmetrics import MetricCollection

        from lowrank.tasks.detection_metrics import AveragePrecision

        return MetricCollection({"boxes": AveragePrecision(self.classes)})

    def count(self, metrics: MetricCollection, outputs: Any, targets: Objects) -> None:
        metrics.update(self.head.boxes(outputs), targets)

    def influences(self, metrics: MetricCollection) -> dict[str, np.ndarray]:
        boxes: Any = metrics["boxes"]
        return boxes.influences()

    def _check_outputs(self, model: nn.Module) -> None:
        batch = next(self.split("test").batches(1))
        self._given(model, batch.only)
        with torch.no_grad():
            self.head.check(call(model, (batch.only.cpu(),)), self.classes)

    def _rows(self, images: ImagesOfObjects, rows: Tensor) -> ObjectSplit:
        make = bound(self.inputs, self.input_arguments)
        return ObjectSplit(images, rows.to(self.device), make)

    def _read(self, part: HubPart) -> ImagesOfObjects:
        found = self.source.read(part)
        largest = int(found.objects.classes.max())
        if largest >= self.classes:
            raise ValueError(
                f"the boxes of split {part!r} of {self.source.dataset!r} have class {largest}, and "
                f"classes={self.classes}: classes count from 0"
            )
        objects = Objects(*(values.to(self.device) for values in found.objects))
        return ImagesOfObjects(found.pixels.to(self.device), objects)
