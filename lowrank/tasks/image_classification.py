"""Image classification: any labelled images, any network, trained here or published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lowrank.tasks.hub_sources import Part
from lowrank.tasks.image_sources import Images, ImageSource
from lowrank.tasks.image_split import ImageSplit, check_scale, per_channel
from lowrank.tasks.own_classifier import OwnClassifier
from lowrank.tasks.splits import (
    ValidationFrom,
    named,
)
from lowrank.tasks.weights import Weights

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ImageClassification(OwnClassifier):
    """A network that classifies images.

    The splits and further options are those of `OwnClassifier`.

    Args:
        name: the name of the task in records; the dataset's if None.
        architecture: the network's name in records.
        source: the images.
        builder: ``package.module:function`` (or a class) that makes the network, given `arguments`.
            It maps (batch, channels, height, width) to logits (batch, classes).
        weights: the source of the network's weights; None keeps those of the builder.
        mean, std: those of the pixels on the scale 0..1, one for each channel or one for all.
        validation_from: ``train`` or ``test``, the images of which `validation` is a part.
        seed: the seed of the initial weights and the order of batches.

    Raises:
        ValueError: an option of the wrong kind; from the methods, a builder that cannot be imported
            or called, splits that do not fit the data, or a network that does not fit the data or
            its weights.
    """

    top = (1, 5)
    units = "images"

    name: str | None  # never None after __post_init__
    architecture: str
    source: ImageSource
    builder: str
    weights: Weights | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.5,)
    validation_size: int | None = None
    validation_from: ValidationFrom = "train"
    calibration_size: int | None = None
    calibration_seed: int | None = None
    split_seed: int = 0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not isinstance(self.source, ImageSource):
            raise ValueError(f"source={self.source!r} must be an ImageSource, such as Digits()")
        object.__setattr__(self, "name", named(self.name, self.source.name))
        check_scale("mean", self.mean, "be finite", math.isfinite)
        check_scale("std", self.std, "be positive and finite", lambda x: 0 < x < math.inf)
        self._check_options()

    def _read(self, part: Part) -> Images:
        found = self.source.read(part)
        pixels, labels = found.pixels.to(self.device), found.labels.to(self.device)
        return Images(pixels, labels, found.white, found.classes)

    def _rows(self, images: Images, rows: Tensor) -> ImageSplit:
        channels = images.pixels.shape[1]
        return ImageSplit(
            images,
            rows.to(self.device),
            per_channel("mean", self.mean, channels).to(self.device),
            per_channel("std", self.std, channels).to(self.device),
        )
