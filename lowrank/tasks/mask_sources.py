"""Images with a class for each pixel, from any segmentation dataset of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.tasks.hub_rows import kept, rows_of
from lowrank.tasks.hub_sources import HubSource
from lowrank.tasks.splits import check_texts_of
from lowrank.tasks.whole_data import SPLITS, HubPart, check_parts


@dataclass(frozen=True)
class MaskedImages:
    """Images of one size with their masks.

    Attributes:
        pixels: uint8, (count, 3, height, width), R, G, B.
        masks: uint8, (count, height, width), the class of each pixel.
    """

    pixels: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class HubMasks(HubSource):
    """Any dataset of the Hugging Face hub, or of a mirror (see `hub`), with images and masks of one
    size. They are decoded once and kept in the cache.

    Args:
        dataset: ``organisation/name``.
        train, validation, test: its splits, which share no image; slices such as ``train[:80%]``
            are allowed.
        config: the dataset's configuration, where it has several.
        revision: a commit or tag of the hub; set it for data that may change there.
        image: the column of images.
        mask: the column of grey images whose values are classes.

    Raises:
        ValueError: an option of the wrong kind; from `read`, missing data, images that differ in
            size from the first or from their mask, or masks that are not grey.
    """

    # Of no whole that published figures are of.
    whole: ClassVar[None] = None

    dataset: str
    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    config: str | None = None
    revision: str | None = None
    image: str = "image"
    mask: str = "annotation"

    def __post_init__(self) -> None:
        check_texts_of(self, ("dataset", "image", "mask"), ("config", "revision"))
        check_parts(self)
        need("images with masks", "datasets", "PIL", "filelock")

    def read(self, part: HubPart) -> MaskedImages:
        """The images of one part."""
        content = kept("masks", self, getattr(self, part), SPLITS, self._decode)
        return MaskedImages(content["pixels"], content["masks"])

    def _decode(self, split: str) -> dict[str, Tensor]:
        data = rows_of(self, split, self.image, self.mask)
        pixels, masks = [], []
        for number, row in enumerate(data):
            image, mask = self._pair(row, f"row {number} of dataset {self.dataset!r}")
            if pixels and image.shape != pixels[0].shape:
                raise ValueError(
                    f"row {number} of dataset {self.dataset!r} has an image of "
                    f"{tuple(image.shape[1:])} pixels, and row 0 one of "
                    f"{tuple(pixels[0].shape[1:])}: images must be of one size"
                )
            pixels.append(image)
            masks.append(mask)
        return {"pixels": torch.stack(pixels), "masks": torch.stack(masks)}

    def _pair(self, row: Any, place: str) -> tuple[Tensor, Tensor]:
        image, mask = row[self.image], row[self.mask]
        if getattr(mask, "mode", None) not in ("L", "P"):
            raise ValueError(f"{place} has no mask of one grey value for each class: {mask!r}")
        if image.size != mask.size:
            raise ValueError(f"{place} has an image of {image.size} and a mask of {mask.size}")
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
        return pixels, torch.from_numpy(np.array(mask))
