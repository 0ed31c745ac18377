"""Image classification: any labelled images, any network, trained here or elsewhere."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.tasks.image_sources import Images, ImageSource
from lowrank.tasks.task import SPLIT_NAMES, Split, SplitName, Task, calibration_rows
from lowrank.tasks.weights import Weights

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


@dataclass(frozen=True)
class ImageSplit(Split):
    """Rows of decoded images, normalised batch by batch as (pixel / white − mean) / std.

    Args:
        rows: int64, (count,).
        mean, std: shape (channels, 1, 1) or (1, 1, 1).
    """

    images: Images
    rows: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batches(
        self, batch_size: int, shuffle_seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        rows = self.rows
        if shuffle_seed is not None:
            generator = torch.Generator().manual_seed(shuffle_seed)
            rows = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
        return ((self.inputs(batch), self.images.labels[batch]) for batch in rows.split(batch_size))

    def inputs(self, rows: Tensor) -> Tensor:
        """Normalised images, float32 (count, channels, height, width)."""
        pixels = self.images.pixels[rows].to(torch.float32)
        return pixels.div_(self.images.white).sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class ImageClassification(Task):
    """A network that names what an image shows.

    The splits: `test` is the source's own. Of the images to learn from, `validation_size` are
    `validation` and the others are `train`; `calibration` is a part of `train`. Which, is drawn
    with `split_seed`, not with `seed`. Weights trained elsewhere may have seen `validation`.

    Args:
        name: of the task, for the records.
        architecture: the network's name, for the records.
        source: the images.
        builder: ``package.module:function`` (or a class) that makes the network, given `arguments`.
            It maps (batch, channels, height, width) to logits (batch, classes).
        weights: where the network's weights come from; None keeps those that the builder gave it.
        mean, std: of the pixels on the scale 0..1, one for each channel or one for all.
        calibration_seed: draws `calibration` from `train`; by default it is its first examples.
        seed: of the initial weights and the order of batches.

    Raises:
        ValueError: from the methods, for a builder that cannot be imported or called, splits that
            do not fit the data, or a network that does not fit the data or its weights.
    """

    name: str
    architecture: str
    source: ImageSource
    builder: str
    weights: Weights | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    validation_size: int = 1000
    calibration_size: int = 512
    calibration_seed: int | None = None
    split_seed: int = 0
    seed: int = 0
    device: str = "cpu"

    def network(self) -> nn.Module:
        # The caller's random state stays as it is.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self._build()

    def model(self) -> nn.Module:
        model = self.network()
        self._check_outputs(model)
        if self.weights is not None:
            self.weights.fill(model, self)
        return model.to(self.device).eval()

    def split(self, name: SplitName) -> ImageSplit:
        if name not in SPLIT_NAMES:
            raise ValueError(f"there is no split {name!r}; there are {', '.join(SPLIT_NAMES)}")
        if name == "test":
            images = self._test_images
            rows = torch.arange(len(images.labels))
        else:
            images = self._train_images
            rows = self._rows(name, len(images.labels))
        channels = images.pixels.shape[1]
        return ImageSplit(
            images,
            rows.to(self.device),
            _per_channel("mean", self.mean, channels).to(self.device),
            _per_channel("std", self.std, channels).to(self.device),
        )

    def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
        return model(inputs)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metrics(self) -> MetricCollection:
        """top1, top5, macro_recall and macro_f1; with fewer than 5 classes top5 is 1."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassF1Score,
            MulticlassRecall,
        )

        classes = self.classes
        return MetricCollection(
            {
                "top1": MulticlassAccuracy(classes, average="micro"),
                "top5": MulticlassAccuracy(classes, top_k=min(5, classes), average="micro"),
                "macro_recall": MulticlassRecall(classes, average="macro"),
                "macro_f1": MulticlassF1Score(classes, average="macro"),
            }
        ).to(self.device)

    def example(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Test images; they repeat where `batch_size` is more than there are."""
        test = self.split("test")
        return (test.inputs(test.rows[torch.arange(batch_size) % len(test)]),)

    @cached_property
    def classes(self) -> int:
        """How many classes the data have: as the dataset says, else as its labels show."""
        if self._test_images.classes is not None:
            return self._test_images.classes
        return 1 + int(max(self._test_images.labels.max(), self._train_images.labels.max()))

    @cached_property
    def _train_images(self) -> Images:
        return _on(self.device, self.source.read("train"))

    @cached_property
    def _test_images(self) -> Images:
        return _on(self.device, self.source.read("test"))

    def _rows(self, name: SplitName, count: int) -> Tensor:
        learnt = count - self.validation_size
        if self.validation_size < 1 or not 1 <= self.calibration_size <= learnt:
            raise ValueError(
                f"validation_size={self.validation_size} and "
                f"calibration_size={self.calibration_size} do not fit {count} images: validation "
                "takes at least 1 of them, calibration at least 1 of the others"
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.split_seed))
        parts = {
            "train": order[:learnt],
            "calibration": order[
                calibration_rows(learnt, self.calibration_size, self.calibration_seed)
            ],
            "validation": order[learnt:],
        }
        return parts[name]

    def _build(self) -> nn.Module:
        build = import_builder(self.builder)
        try:
            inspect.signature(build).bind(**self.arguments)
        except TypeError as error:
            raise ValueError(
                f"builder {self.builder} does not take arguments={dict(self.arguments)}: {error}"
            ) from error
        model = build(**self.arguments)
        if not isinstance(model, nn.Module):
            raise ValueError(f"builder {self.builder} made a {type(model).__name__}, no nn.Module")
        return model

    def _check_outputs(self, model: nn.Module) -> None:
        inputs = self.example()[0].cpu()
        try:
            with torch.no_grad():
                outputs = model.eval()(inputs)
        except RuntimeError as error:
            raise ValueError(
                f"the network of {self.builder} does not take images of shape "
                f"{tuple(inputs.shape)}: {error}"
            ) from error
        given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        if given != (1, self.classes):
            raise ValueError(
                f"the network of {self.builder} gives {given} for one image, not logits of shape "
                f"(1, {self.classes}): the data have {self.classes} classes"
            )


def import_builder(path: str) -> Callable[..., Any]:
    """The callable at ``package.module:name``.

    Raises:
        ValueError: there is none.
    """
    module, colon, name = path.partition(":")
    try:
        if not colon:
            raise ImportError("there is no colon in it")
        builder = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"builder={path!r} cannot be imported ({error}); give package.module:function, with "
            "the package installed or in the working directory"
        ) from error
    if not callable(builder):
        raise ValueError(f"builder={path!r} is a {type(builder).__name__} and cannot be called")
    return builder


def _on(device: str, images: Images) -> Images:
    return Images(images.pixels.to(device), images.labels.to(device), images.white, images.classes)


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> Tensor:
    if len(values) not in (1, channels):
        raise ValueError(
            f"{name}={list(values)} must hold 1 value or one for each of {channels} channels"
        )
    if name == "std" and min(values) <= 0:
        raise ValueError(f"std={list(values)} must be positive")
    return torch.tensor(values, dtype=torch.float32)[:, None, None]
