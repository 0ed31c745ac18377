"""Labelled images as uint8 tensors, from scikit-learn or from any dataset of the hub."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.numerics.checks import check_integer
from lowrank.tasks.hub_rows import class_numbers, rows_of
from lowrank.tasks.hub_sources import Part, TwoParts, check_part
from lowrank.tasks.splits import check_texts_of

if TYPE_CHECKING:
    from datasets import Dataset


MODES = {1: "L", 3: "RGB"}
CONVERTIBLE = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")


@dataclass(frozen=True)
class Images:
    """Decoded images with their labels.

    Attributes:
        pixels: uint8, (count, channels, height, width).
        labels: int64, (count,), from 0.
        white: the pixel value that counts as 1.
        classes: the number of classes, or None if the dataset does not say it.

    Raises:
        ValueError: other shapes or dtypes, no image or no pixel, or a label that is no class.
    """

    pixels: Tensor
    labels: Tensor
    white: int = 255
    classes: int | None = None

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or not pixels.numel():
            raise ValueError(
                "pixels must be uint8 of shape (count, channels, height, width), each at least 1, "
                f"and are {pixels.dtype} of shape {tuple(pixels.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({len(pixels)},), one for each image, and are "
                f"{labels.dtype} of shape {tuple(labels.shape)}"
            )
        check_integer("white", self.white, least=1)
        least, largest = int(labels.min()), int(labels.max())
        if least < 0 or (self.classes is not None and largest >= self.classes):
            classes = "" if self.classes is None else f" and there are {self.classes} classes"
            raise ValueError(
                f"labels lie in {least}..{largest}; they count classes from 0{classes}. Labels of "
                "-1 are hidden ones: take another split"
            )


class ImageSource(ABC):
    """A source of labelled images; each final class is a frozen dataclass."""

    @property
    def name(self) -> str:
        """The default name of a task on these images."""
        return type(self).__name__.lower()

    @abstractmethod
    def read(self, part: Part) -> Images:
        """The train images ("train") or the test images ("test"), which share none.

        Raises:
            ValueError: another part, missing data, or no labelled images of one size.
        """


def check_size(size: object) -> None:
    """Raise ValueError unless `size` is the height and the width of an image."""
    numbers = () if isinstance(size, str) or not isinstance(size, Sequence) else size
    if len(numbers) != 2 or not all(type(number) is int and number >= 1 for number in numbers):
        raise ValueError(f"size={size!r} must be [height, width], each an integer from 1")


@dataclass(frozen=True)
class Digits(ImageSource):
    """The 1,797 handwritten digits (8 × 8, grey, 0..16) that scikit-learn contains.

    Args:
        test_size: the number of test images, which are always the same.
    """

    test_size: int = 360

    def __post_init__(self) -> None:
        check_integer("test_size", self.test_size, least=1)
        need("the digits", "sklearn")

    def read(self, part: Part) -> Images:
        from sklearn.datasets import load_digits

        check_part(part)
        data: Any = load_digits()
        pixels = torch.from_numpy(data.images.astype(np.uint8))[:, None]
        labels = torch.from_numpy(data.target.astype(np.int64))
        if self.test_size >= len(labels):
            raise ValueError(f"test_size={self.test_size} must lie in 1..{len(labels) - 1}")
        # The first and the last images have different writers, so they are shuffled.
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        rows = order[: self.test_size] if part == "test" else order[self.test_size :]
        return Images(pixels[rows], labels[rows], white=16, classes=10)


@dataclass(frozen=True)
class HubImages(TwoParts, ImageSource):
    """Any image-classification dataset of the Hugging Face hub, or of a mirror (see `hub`).

    They are decoded once and kept in the cache as uint8 tensors.

    Args:
        dataset: ``organisation/name``.
        config: the dataset's configuration, where it has several.
        revision: a commit or tag of the hub; set it for data that may change there.
        train: the split of the train images; slices such as ``train[:80%]`` are allowed.
        test: the split of the test images; must share no image with `train`.
        image: the column of images; by default the only one of that type.
        label: the column of labels; by default the only one with class names.
        size: (height, width) of bilinear resizing; needed if images differ in size.
        channels: 1 (grey) or 3 (RGB), the mode of conversion; needed if images differ in mode.
    """

    dataset: str
    config: str | None = None
    revision: str | None = None
    train: str = "train"
    test: str = "test"
    image: str | None = None
    label: str | None = None
    size: Sequence[int] | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        optional = ("config", "revision", "image", "label")
        check_texts_of(self, ("dataset", "train", "test"), optional)
        self._check_parts()
        if self.channels is not None and (
            isinstance(self.channels, bool) or self.channels not in MODES
        ):
            raise ValueError(f"channels={self.channels!r} must be 1 (grey) or 3 (RGB)")
        if self.size is not None:
            check_size(self.size)
        need("images of the hub", "datasets", "PIL", "filelock")

    def read(self, part: Part) -> Images:
        content = self._kept("images", part, self._decode)
        classes = int(content["classes"])
        return Images(content["pixels"], content["labels"], classes=classes or None)

    def _decode(self, split: str) -> dict[str, Tensor]:
        data = rows_of(self, split)
        image, label = self._columns(data)
        labelled = class_numbers(self, data, label)
        return {"pixels": self._pixels(data, image), **labelled}

    def _columns(self, data: Dataset) -> tuple[str, str]:
        """The columns of images and labels."""
        from datasets import ClassLabel
        from datasets import Image as ImageFeature

        image = self._column(data, "image", self.image, ImageFeature)
        return image, self._column(data, "label", self.label, ClassLabel)

    def _column(self, data: Dataset, role: str, given: str | None, kind: type) -> str:
        if given is None:
            found = [name for name, feature in data.features.items() if isinstance(feature, kind)]
            if len(found) != 1:
                raise ValueError(
                    f"dataset {self.dataset!r} has {len(found)} columns of type {kind.__name__}; "
                    f"give `{role}`, one of {data.column_names}"
                )
            return found[0]
        if given not in data.column_names:
            raise ValueError(
                f"dataset {self.dataset!r} has no column {role}={given!r}; it has "
                f"{data.column_names}"
            )
        return given

    def _pixels(self, data: Dataset, column: str) -> Tensor:
        """All images, uint8 (count, channels, height, width)."""
        first = self._array(data[0][column], 0)
        pixels = torch.empty((len(data), *first.shape), dtype=torch.uint8)
        for start in range(0, len(data), 1000):
            for row, image in enumerate(data[start : start + 1000][column], start):
                array = self._array(image, row)
                if array.shape != first.shape:
                    raise ValueError(
                        f"images of dataset {self.dataset!r} differ: (channels, height, width) is "
                        f"{first.shape} in row 0 and {array.shape} in row {row}. Give `size` and "
                        "`channels`."
                    )
                pixels[row] = torch.from_numpy(array)
        return pixels

    def _array(self, image: Any, row: int) -> np.ndarray:
        """One image as uint8 (channels, height, width)."""
        from PIL.Image import Image, Resampling

        if not isinstance(image, Image) or image.mode not in CONVERTIBLE:
            raise ValueError(f"row {row} of dataset {self.dataset!r} is no 8-bit image: {image!r}")
        mode = image.mode if self.channels is None else MODES[self.channels]
        if mode not in MODES.values():
            raise ValueError(
                f"row {row} of dataset {self.dataset!r} is an image of mode {mode!r}; give "
                "`channels`: 1 (grey) or 3 (RGB)"
            )
        image = image.convert(mode)
        if self.size is not None:
            height, width = self.size
            image = image.resize((width, height), Resampling.BILINEAR)
        array = np.array(image)
        if not array.size:
            raise ValueError(f"row {row} of dataset {self.dataset!r} is an image without a pixel")
        return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
