"""Images with the boxes of the objects in them, from any detection dataset of the hub."""

from __future__ import annotations

from collections.abc import Sequence
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
        pixels, each, sizes = [], [], []
        rows: Any = rows_of(self, split, self.image, self.objects)
        for number, row in enumerate(rows):
            image = row[self.image].convert("RGB")
            whole = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
            pixels.append(resized(whole, self.height, self.width)[0])
            place = f"row {number} of split {split!r} of dataset {self.dataset!r}"
            said = row[self.objects]
            each.append(objects_in(said, image.size, place, self.box, self.label))
            sizes.append(image.size)
        found = filled_objects(each, sizes)
        return {"pixels": torch.stack(pixels), **found._asdict()}


def objects_in(
    said: Any, size: tuple[int, int], place: str, box: str, label: str
) -> tuple[Tensor, Tensor]:
    """The corners, float64 (count, 4), in parts of the image, and int64 classes of the objects of
    a row.

    Args:
        said: by name the boxes [left, top, width, height] in pixels, and their classes.
        size: width and height of the image.
        place: the row, for errors.
        box, label: the names.

    Raises:
        ValueError: a field is missing, a box is empty or lies outside the image, or a class is no
            number from 0.
    """
    missing = [name for name in (box, label) if name not in said]
    if missing:
        raise ValueError(f"an object of {place} has no field {missing[0]!r}; it has {sorted(said)}")
    boxes, labels = said[box], said[label]
    if len(boxes) != len(labels):
        raise ValueError(f"{place} has {len(boxes)} boxes and {len(labels)} classes")
    if not all(isinstance(number, int) and number >= 0 for number in labels):
        raise ValueError(f"{place} has the classes {labels}: they must be numbers from 0")
    for one in boxes:
        _check_box(one, size, place)
    sides = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    ends = torch.cat([sides[:, :2], sides[:, :2] + sides[:, 2:]], dim=1)
    return ends / torch.tensor([*size, *size]), torch.tensor(labels, dtype=torch.int64)


def filled_objects(each: Sequence[tuple[Tensor, Tensor]], sizes: Any) -> Objects:
    """The objects of several images, of each its corners and classes.

    Args:
        sizes: width and height of each image.
    """
    corners, classes = zip(*each, strict=True)
    pad = torch.nn.utils.rnn.pad_sequence
    return Objects(
        pad(list(corners), batch_first=True),
        pad(list(classes), batch_first=True, padding_value=-1),
        torch.tensor(sizes, dtype=torch.float64),
    )


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
