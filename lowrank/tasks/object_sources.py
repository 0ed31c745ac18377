"""Images with the boxes of the objects in them, from any detection dataset of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.numerics.checks import check_integer
from lowrank.tasks.hub_rows import kept, rows_of
from lowrank.tasks.hub_sources import HubSource
from lowrank.tasks.image_inputs import resized
from lowrank.tasks.splits import check_texts_of
from lowrank.tasks.whole_data import SPLITS, HubPart, check_parts

# Pixels by which a box may lie outside its image: annotations are rounded.
MARGIN = 1.0


class Objects(NamedTuple):
    """The objects in images; an image of fewer than others has more places without one.

    Attributes:
        corners: float64, (count, most, 4), left, top, right and bottom, in parts of the image.
        classes: int64, (count, most), from 0; −1 where there is no object.
        sizes: float64, (count, 2), width and height of the image in pixels.
    """

    corners: Tensor
    classes: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class ImagesOfObjects:
    """Images of one size, uint8 (count, 3, height, width) in the order R, G, B, and objects."""

    pixels: Tensor
    objects: Objects

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class HubObjects(HubSource):
    """Any dataset of the Hugging Face hub, or of a mirror (see `hub`), in its convention for
    detection: a column of lists of boxes [left, top, width, height] in pixels, and their classes.

    Images are decoded once, resized without keeping the ratio of their sides (see
    `image_inputs.resized`) and kept in the cache.

    Args:
        dataset: ``organisation/name``.
        height, width: to which images are resized.
        train, validation, test: its splits, which share no image; slices such as ``train[:80%]``
            are allowed.
        whole: the split of which `test` is a part, where published figures are of the whole.
        config: the dataset's configuration, where it has several.
        revision: a commit or tag of the hub; set it for data that may change there.
        image, objects: the columns.
        box, label: the fields of `objects`.

    Raises:
        ValueError: an option of the wrong kind; from `read`, missing data, a box that is empty or
            lies outside its image, or a class that is no number from 0.
    """

    dataset: str
    height: int
    width: int
    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    whole: str | None = None
    config: str | None = None
    revision: str | None = None
    image: str = "image"
    objects: str = "objects"
    box: str = "bbox"
    label: str = "category"

    def __post_init__(self) -> None:
        needed = ("dataset", "image", "objects", "box", "label")
        check_texts_of(self, needed, ("config", "revision"))
        check_integer("height", self.height, least=1)
        check_integer("width", self.width, least=1)
        check_parts(self)
        need("images with boxes", "datasets", "PIL", "filelock")

    def read(self, part: HubPart) -> ImagesOfObjects:
        """The images of one part."""
        found = kept("objects", self, getattr(self, part), SPLITS, self._decode)
        return ImagesOfObjects(found["pixels"], Objects(*(found[n] for n in Objects._fields)))

    def _decode(self, split: str) -> dict[str, Tensor]:
        pixels, corners, classes, sizes = [], [], [], []
        rows: Any = rows_of(self, split, self.image, self.objects)
        for number, row in enumerate(rows):
            image = row[self.image].convert("RGB")
            whole = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
            pixels.append(resized(whole, self.height, self.width)[0])
            place = f"row {number} of split {split!r} of dataset {self.dataset!r}"
            of_image = self._objects(row[self.objects], image.size, place)
            corners.append(of_image[0])
            classes.append(of_image[1])
            sizes.append(torch.tensor(image.size, dtype=torch.float64))
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "pixels": torch.stack(pixels),
            "corners": pad(corners, batch_first=True),
            "classes": pad(classes, batch_first=True, padding_value=-1),
            "sizes": torch.stack(sizes),
        }

    def _objects(self, said: Any, size: tuple[int, int], place: str) -> tuple[Tensor, Tensor]:
        missing = [name for name in (self.box, self.label) if name not in said]
        if missing:
            raise ValueError(
                f"column {self.objects!r} of dataset {self.dataset!r} has no field {missing[0]!r}; "
                f"it has {sorted(said)}"
            )
        boxes, labels = said[self.box], said[self.label]
        if len(boxes) != len(labels):
            raise ValueError(f"{place} has {len(boxes)} boxes and {len(labels)} classes")
        if not all(isinstance(label, int) and label >= 0 for label in labels):
            raise ValueError(f"{place} has the classes {labels}: they must be numbers from 0")
        for box in boxes:
            _check_box(box, size, place)
        sides = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
        ends = torch.cat([sides[:, :2], sides[:, :2] + sides[:, 2:]], dim=1)
        return ends / torch.tensor([*size, *size]), torch.tensor(labels, dtype=torch.int64)


def _check_box(box: Any, size: tuple[int, int], place: str) -> None:
    """Raise ValueError unless a box is one in an image of `size`, (width, height)."""
    if len(box) != 4 or not all(np.isfinite(box)) or not (box[2] > 0 and box[3] > 0):
        raise ValueError(f"{place} has the box {box}: it must be [left, top, width, height] > 0")
    ends = (box[0] + box[2], box[1] + box[3])
    low, high = min(box[0], box[1]), max(ends[0] - size[0], ends[1] - size[1])
    if low < -MARGIN or high > MARGIN:
        raise ValueError(
            f"{place} has the box {box}, outside its image of {size[0]} × {size[1]} pixels; boxes "
            "are [left, top, width, height] in pixels"
        )
