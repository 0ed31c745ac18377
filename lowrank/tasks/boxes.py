"""Boxes of objects: read from the outputs of a detector, compared, and thinned out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Boxes(NamedTuple):
    """The boxes found in one image.

    Attributes:
        corners: (count, 4), left, top, right and bottom, in parts of the image's width and height;
            they may lie outside the image.
        scores: (count,), in [0, 1].
        classes: int64, (count,).
    """

    corners: Tensor
    scores: Tensor
    classes: Tensor


def detections(maps: Tensor, threshold: float = 0.001, overlap: float = 0.45) -> list[Boxes]:
    """The boxes in each image, those of the highest scores first.

    Args:
        maps: the outputs of `FastestDet`, (batch, 5 + classes, height, width).
        threshold: only boxes with a score above it; 0.001 for an evaluation, 0.65 to be shown.
        overlap: of boxes of one class that overlap by more, the one of the highest score stays.

    Raises:
        ValueError: `maps` has another shape.
    """
    every, found = cell_boxes(maps), []
    for image in range(len(maps)):
        corners, scores, classes = (part[image] for part in every)
        is_above = scores > threshold
        boxes = Boxes(corners[is_above], scores[is_above], classes[is_above])
        found.append(suppressed(boxes, overlap))
    return found


def cell_boxes(maps: Tensor) -> Boxes:
    """The box of each cell of the grid, row by row: each tensor has the images as its first axis.

    A cell's class is the most probable one; its score objectness^0.6 · probability^0.4.

    Raises:
        ValueError: `maps` has another shape than (batch, 5 + classes, height, width).
    """
    if maps.ndim != 4 or maps.shape[1] < 6:
        raise ValueError(
            f"maps of shape {tuple(maps.shape)} must be (batch, 5 + classes, height, width)"
        )
    height, width = maps.shape[2:]
    objectness, numbers, probabilities = maps.flatten(2).split([1, 4, maps.shape[1] - 5], dim=1)
    largest, classes = probabilities.max(dim=1)
    scores = objectness.squeeze(1) ** 0.6 * largest**0.4
    cells = torch.arange(height * width, device=maps.device)
    x = (numbers[:, 0].tanh() + cells % width) / width
    y = (numbers[:, 1].tanh() + cells // width) / height
    half_width, half_height = numbers[:, 2].sigmoid() / 2, numbers[:, 3].sigmoid() / 2
    corners = torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=2)
    return Boxes(corners, scores, classes)


def suppressed(boxes: Boxes, overlap: float) -> Boxes:
    """The boxes without those that overlap one of the same class and a higher score, in the order
    of scores.

    Args:
        overlap: boxes that overlap by more than that are of one object; what is left out leaves
            out no other.
    """
    order = boxes.scores.argsort(descending=True, stable=True)
    corners, scores, classes = (part[order] for part in boxes)
    is_same = (overlaps(corners, corners) > overlap) & (classes[:, None] == classes)
    rivals, is_left = is_same.cpu().numpy(), torch.ones(len(scores), dtype=torch.bool).numpy()
    for place in range(len(is_left)):
        if is_left[place]:
            is_left[place + 1 :] &= ~rivals[place, place + 1 :]
    kept = torch.from_numpy(is_left).to(scores.device)
    return Boxes(corners[kept], scores[kept], classes[kept])


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of each box (n, 4) with each other one (m, 4), (n, m)."""
    low = torch.maximum(first[:, None, :2], second[:, :2])
    high = torch.minimum(first[:, None, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    own, other = ((each[:, 2:] - each[:, :2]).prod(dim=1) for each in (first, second))
    return shared / (own[:, None] + other - shared)
