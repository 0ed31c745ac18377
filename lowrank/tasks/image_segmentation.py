"""Segmentation: a class for each pixel of an image, by any network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.numerics.checks import check_flag, check_integer
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.builders import bound
from lowrank.tasks.class_metrics import IGNORED
from lowrank.tasks.class_scores import ClassScores
from lowrank.tasks.mask_sources import HubMasks, MaskedImages
from lowrank.tasks.own_network import OwnNetwork
from lowrank.tasks.segmentation_scores import PIXEL_METRICS, PixelScores
from lowrank.tasks.splits import check_division, named
from lowrank.tasks.task import BatchSizes, Split, loss_metric
from lowrank.tasks.weights import Weights
from lowrank.tasks.whole_data import HubPart, OfParts

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


@dataclass(frozen=True)
class PixelSplit(Split):
    """Rows of images, made into inputs batch by batch, and their masks.

    Args:
        make: from uint8 (batch, 3, height, width) to inputs of the network.
        ignored: the label of pixels without a class, which become `IGNORED`.
    """

    images: MaskedImages
    rows: Tensor
    make: Any
    ignored: int | None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Tensor) -> Batch:
        rows = self.rows[rows.to(self.rows.device)]
        labels = self.images.masks[rows].long()
        if self.ignored is not None:
            labels = labels.masked_fill(labels == self.ignored, IGNORED)
        return Batch((self.make(self.images.pixels[rows]),), labels)


@dataclass(frozen=True)
class ImageSegmentation(OwnNetwork, OfParts, ClassScores):
    """A network that gives each pixel of an image a class.

    Splits are those of the source; `calibration` is a part of `train`. The loss, and the agreement
    with the dense model, are means over pixels.

    Args:
        name: the name of the task in records; the dataset's if None.
        architecture: the network's name in records.
        source: images and masks.
        classes: the number of labels, `ignored` counted.
        inputs: ``package.module:function`` from uint8 (batch, 3, height, width) and
            `input_arguments` to what the network takes, such as
            `lowrank.tasks.image_inputs:bgr_inputs`.
        builder: ``package.module:function`` (or a class) that makes the network, given `arguments`.
            It maps inputs to logits (batch, classes, height, width).
        weights: the source of the network's weights; None keeps those of the builder.
        ignored: the label of pixels without a class, which are in no mean.
        everywhere: whether classes predicted for pixels without one count as wrong in intersection
            over union.
        calibration_size: all of `train` if not given.
        calibration_seed: draws `calibration` from `train`; by default the first images are taken.
        seed: the seed of the initial weights and the order of batches.

    Raises:
        ValueError: an option of the wrong kind; from the methods, labels that are no classes, or a
            network that does not fit the images or its weights.
    """

    units = "images"
    batch_sizes = BatchSizes(quality=4, latency=(1,))

    name: str | None  # never None after __post_init__
    architecture: str
    source: HubMasks
    classes: int
    inputs: str
    builder: str
    weights: Weights | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input_arguments: Mapping[str, Any] = field(default_factory=dict)
    ignored: int | None = None
    everywhere: bool = True
    calibration_size: int | None = None
    calibration_seed: int | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not isinstance(self.source, HubMasks):
            raise ValueError(f"source={self.source!r} must be HubMasks")
        object.__setattr__(self, "name", named(self.name, self.source.name))
        self._check_network()
        self._check_function("inputs", "input_arguments")
        check_integer("classes", self.classes, least=2)
        if self.ignored is not None:
            check_integer("ignored", self.ignored, least=0)
        check_flag("everywhere", self.everywhere)
        check_division(None, self.calibration_size, self.calibration_seed)
        need("measures of a segmentation", "torchmetrics")

    def predictions(self, batch: Batch) -> Tensor:
        return (batch.targets != IGNORED).flatten(1).sum(dim=1)

    def judged_by(self) -> tuple[Metric, ...]:
        return (*PIXEL_METRICS, loss_metric("pixel"), *agreement_metrics("pixel"))

    def metrics(self) -> MetricCollection:
        """mean_iou, class_average and pixel_accuracy; see `segmentation_scores`."""
        return PixelScores(self.classes, self.ignored, self.everywhere).collection()

    def influences(self, metrics: MetricCollection) -> dict[str, np.ndarray]:
        pixels: Any = metrics["pixels"]
        return pixels.influences()

    def _check_outputs(self, model: nn.Module) -> None:
        batch = next(self.split("test").batches(1))
        given, expected = (
            self._given(model, batch.only),
            (1, self.classes, *batch.targets.shape[1:]),
        )
        if given != expected:
            raise ValueError(
                f"the network of {self.builder} gives {given} for one image, not logits of shape "
                f"{expected}, a class for each pixel"
            )

    def _rows(self, images: MaskedImages, rows: Tensor) -> PixelSplit:
        make = bound(self.inputs, self.input_arguments)
        return PixelSplit(images, rows.to(self.device), make, self.ignored)

    def _read(self, part: HubPart) -> MaskedImages:
        found = self.source.read(part)
        largest = int(found.masks.max())
        if largest >= self.classes:
            raise ValueError(
                f"the masks of split {part!r} of {self.source.dataset!r} have label {largest}, and "
                f"classes={self.classes}: labels count from 0"
            )
        return MaskedImages(found.pixels.to(self.device), found.masks.to(self.device))
