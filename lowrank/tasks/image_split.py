"""Splits of normalised images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.model.batch import Batch
from lowrank.numerics.checks import check_number
from lowrank.tasks.image_sources import Images
from lowrank.tasks.task import Split


@dataclass(frozen=True)
class ImageSplit(Split):
    """Rows of decoded images, normalised batch by batch as (pixel / white − mean) / std.

    Args:
        rows: the rows of the split, int64 (count,).
        mean, std: shape (channels, 1, 1) or (1, 1, 1).
    """

    images: Images
    rows: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Tensor) -> Batch:
        """Normalised images, float32 (count, channels, height, width), and their labels."""
        rows = self.rows[rows.to(self.rows.device)]
        pixels = self.images.pixels[rows].to(torch.float32)
        normalised = pixels.div_(self.images.white).sub_(self.mean).div_(self.std)
        return Batch((normalised,), self.images.labels[rows])


def check_scale(
    name: str, values: Sequence[float], allowed: str, holds: Callable[[float], bool]
) -> None:
    """Raise ValueError unless `values` is a sequence of numbers that all satisfy `holds`."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(
            f"{name}={values!r} must be a list of numbers, one for all channels or one for each"
        )
    for value in values:
        check_number(name, value, allowed, holds)


def per_channel(name: str, values: Sequence[float], channels: int) -> Tensor:
    """One value for all channels, or one for each, as float32 (1 or channels, 1, 1).

    Raises:
        ValueError: another number of values.
    """
    if len(values) not in (1, channels):
        raise ValueError(
            f"{name}={list(values)} must hold 1 value or one for each of {channels} channels"
        )
    return torch.tensor(values, dtype=torch.float32)[:, None, None]
