"""Image classification: any labelled images, any network, trained here or published."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.forward import call
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.class_metrics import class_collection, class_metrics
from lowrank.tasks.class_scores import ClassScores
from lowrank.tasks.image_sources import Images, ImageSource
from lowrank.tasks.image_split import ImageSplit, check_scale, per_channel
from lowrank.tasks.splits import (
    Division,
    TestDivision,
    ValidationFrom,
    check_division,
    check_seed,
    check_text,
    divided,
    divided_test,
    named,
)
from lowrank.tasks.task import SplitName, check_split, loss_metric
from lowrank.tasks.weights import Weights

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


@dataclass(frozen=True)
class ImageClassification(ClassScores):
    """A network that classifies images.

    Splits: `test` is the source's own. Of the source's train images, `validation_size` are
    `validation` and the others `train`; `calibration` is a part of `train`. `split_seed` draws the
    split, not `seed`. Published weights may have been trained on these `validation` images: with
    ``validation_from="test"`` they are a part of the source's test images, which `test` then leaves
    out.

    Args:
        name: the name of the task in records; the dataset's if None.
        architecture: the network's name in records.
        source: the images.
        builder: ``package.module:function`` (or a class) that makes the network, given `arguments`.
            It maps (batch, channels, height, width) to logits (batch, classes).
        weights: the source of the network's weights; None keeps those of the builder.
        mean, std: those of the pixels on the scale 0..1, one for each channel or one for all.
        validation_size: a tenth of the images that it is taken from, at most 1000, if not given.
        validation_from: ``train`` or ``test``, the images of which `validation` is a part.
        calibration_size: 512, or all of `train` if it has fewer, if not given.
        calibration_seed: draws `calibration` from `train`; by default the first examples are taken.
        seed: the seed of the initial weights and the order of batches.

    Raises:
        ValueError: an option of the wrong kind; from the methods, a builder that cannot be imported
            or called, splits that do not fit the data, or a network that does not fit the data or
            its weights.
    """

    top = (1, 5)

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
        check_text("architecture", self.architecture)
        check_text("builder", self.builder)
        if not isinstance(self.arguments, Mapping):
            raise ValueError(f"arguments={self.arguments!r} must be a mapping of names to values")
        if self.weights is not None and not isinstance(self.weights, Weights):
            raise ValueError(
                f"weights={self.weights!r} must be None or Weights, such as Published(repository)"
            )
        check_scale("mean", self.mean, "be finite", math.isfinite)
        check_scale("std", self.std, "be positive and finite", lambda x: 0 < x < math.inf)
        check_division(
            self.validation_size,
            self.calibration_size,
            self.calibration_seed,
            self.split_seed,
            self.validation_from,
        )
        need("a classifier's measures", "torchmetrics")
        check_seed("seed", self.seed)

    @property
    def draws_model(self) -> bool:
        return self.weights is None or self.weights.draws

    def check(self) -> None:
        super().check()
        self._check_outputs(self.network())
        if self.weights is not None:
            self.weights.check()

    def network(self) -> nn.Module:
        # The caller's random state is restored.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self._build()

    def model(self) -> nn.Module:
        model = self.network()
        self._check_outputs(model)
        if self.weights is not None:
            self.weights.fill(model, self, self.builder, self.arguments)
        return model.to(self.device).eval()

    def split(self, name: SplitName) -> ImageSplit:
        check_split(name)
        if name == "test" or (name == "validation" and self.validation_from == "test"):
            return self._of(self._test_images, getattr(self._test_division, name))
        return self._of(self._train_images, self._division.rows(name))

    def whole_test(self) -> ImageSplit | None:
        if self.validation_from == "train":
            return None
        return self._of(self._test_images, torch.arange(len(self._test_images.labels)))

    def _of(self, images: Images, rows: Tensor) -> ImageSplit:
        channels = images.pixels.shape[1]
        return ImageSplit(
            images,
            rows.to(self.device),
            per_channel("mean", self.mean, channels).to(self.device),
            per_channel("std", self.std, channels).to(self.device),
        )

    def judged_by(self) -> tuple[Metric, ...]:
        return (
            *class_metrics(self.classes, self.top),
            loss_metric(),
            *agreement_metrics("example"),
        )

    def metrics(self) -> MetricCollection:
        """top1, top5, macro_recall and macro_f1; with 5 or fewer classes top5 is 1."""
        return class_collection(self.classes, self.top).to(self.device)

    def protocol(self) -> dict[str, Any]:
        """The number of images in each split."""
        return {
            "test_images": len(self.split("test")),
            "train_images": len(self._division.train),
            "validation_images": len(self.split("validation")),
            "calibration_images": len(self._division.calibration),
        }

    @cached_property
    def classes(self) -> int:
        """The number of classes, from the dataset's description or else from its labels."""
        if self._test_images.classes is not None:
            return self._test_images.classes
        return 1 + int(max(self._test_images.labels.max(), self._train_images.labels.max()))

    @cached_property
    def _train_images(self) -> Images:
        return _on(self.device, self.source.read("train"))

    @cached_property
    def _test_images(self) -> Images:
        return _on(self.device, self.source.read("test"))

    @cached_property
    def _test_division(self) -> TestDivision:
        found = len(self._test_images.labels)
        size, seed = self.validation_size, self.split_seed
        return divided_test(found, size, 1000, "test images", self.validation_from, seed)

    @cached_property
    def _division(self) -> Division:
        return divided(
            len(self._train_images.labels),
            (self.validation_size if self.validation_from == "train" else 0, self.calibration_size),
            most=(1000, 512),
            of="images to learn from",
            calibration_seed=self.calibration_seed,
            split_seed=self.split_seed,
        )

    def _build(self) -> nn.Module:
        build = import_builder(self.builder)
        try:
            inspect.signature(build).bind(**self.arguments)
        # A ValueError: Python has no signature for some builtins.
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"builder {self.builder} does not take arguments={dict(self.arguments)}: {error}"
            ) from error
        try:
            model = build(**self.arguments)
        except Exception as error:  # A builder of a user may raise anything.
            raise ValueError(
                f"builder {self.builder} of task {self.name!r} fails with "
                f"arguments={dict(self.arguments)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(model, nn.Module):
            raise ValueError(f"builder {self.builder} made a {type(model).__name__}, no nn.Module")
        return model

    def _check_outputs(self, model: nn.Module) -> None:
        inputs = next(self.split("test").batches(1)).only.cpu()
        try:
            with torch.no_grad():
                outputs = call(model.eval(), (inputs,))
        except ValueError as error:
            raise ValueError(
                f"the network of {self.builder}, of task {self.name!r}, does not take images of "
                f"shape {tuple(inputs.shape)}: {error}"
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
    except Exception as error:  # A module of a user may raise anything.
        raise ValueError(
            f"builder={path!r} cannot be imported ({type(error).__name__}: {error}); give "
            "package.module:function, with the package installed or in the working directory"
        ) from error
    if not callable(builder):
        raise ValueError(f"builder={path!r} is a {type(builder).__name__} and cannot be called")
    return builder


def _on(device: str, images: Images) -> Images:
    return Images(images.pixels.to(device), images.labels.to(device), images.white, images.classes)
