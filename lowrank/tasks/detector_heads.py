"""What the outputs of a detector mean: boxes, a loss, a distance to the dense model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.numerics.checks import check_number
from lowrank.tasks.boxes import Boxes, cell_boxes, detections
from lowrank.tasks.object_sources import Objects

# Below it no logarithm is taken of a probability.
LEAST = 1e-7


class DetectorHead(ABC):
    """How the outputs of a detector are read; each final class is a frozen dataclass."""

    @abstractmethod
    def check(self, outputs: Any, classes: int) -> None:
        """Raise ValueError unless outputs are those of a detector of so many classes."""

    @abstractmethod
    def boxes(self, outputs: Any) -> list[Boxes]:
        """The boxes in each image."""

    @abstractmethod
    def losses(self, outputs: Any, objects: Objects) -> Tensor:
        """The loss of each image, (batch,), differentiable in `outputs`."""

    @abstractmethod
    def distances(self, outputs: Any, dense: Any) -> Tensor:
        """How far the outputs for each image are from the dense model's, (batch,): 0 if they are
        equal, and above 0 if not; differentiable in `outputs`."""


@dataclass(frozen=True)
class GridHead(DetectorHead):
    """A grid with objectness, box and class probabilities of each cell, as of `FastestDet`.

    The loss of an image is the mean binary cross-entropy of the objectness of all cells, 1 where
    the centre of an object lies, and over the objects the mean of −ln of the probability of the
    class and 1 − intersection over union of the box, of the cell of the centre. It is not the one
    by which FastestDet's author trained, of which the published description says nothing.

    The distance is the mean over the cells of the divergence KL(dense ‖ model) of the objectness
    and, times the dense objectness, that of the classes and 1 − intersection over union of the
    boxes.

    Args:
        threshold: boxes have a score above it: 0.001 for an evaluation, 0.65 to be shown.
        overlap: of boxes of one class that overlap by more, the one of the highest score stays.

    Raises:
        ValueError: a number outside [0, 1].
    """

    threshold: float = 0.001
    overlap: float = 0.45

    def __post_init__(self) -> None:
        for name in ("threshold", "overlap"):
            check_number(name, getattr(self, name), "lie in [0, 1]", lambda x: 0 <= x <= 1)

    def check(self, outputs: Any, classes: int) -> None:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        if not isinstance(outputs, Tensor) or outputs.ndim != 4 or shape[1] != 5 + classes:
            raise ValueError(
                f"the detector gives {shape}, and of {classes} classes it must be "
                f"(batch, {5 + classes}, height, width)"
            )

    def boxes(self, outputs: Tensor) -> list[Boxes]:
        return detections(outputs, self.threshold, self.overlap)

    def losses(self, outputs: Tensor, objects: Objects) -> Tensor:
        corners, classes, _ = objects
        height, width = outputs.shape[2:]
        is_object = classes >= 0
        centres = (corners[..., :2] + corners[..., 2:]) / 2
        columns = (centres[..., 0] * width).long().clamp(0, width - 1)
        rows = (centres[..., 1] * height).long().clamp(0, height - 1)
        cells = rows * width + columns
        wanted = torch.zeros_like(outputs[:, 0]).flatten(1)
        wanted.scatter_reduce_(1, cells, is_object.to(wanted), "amax")
        found = F.binary_cross_entropy(_inside(outputs[:, 0].flatten(1)), wanted, reduction="none")
        # The predictions of the cell of each object.
        images = torch.arange(len(outputs), device=outputs.device)[:, None]
        of_classes = outputs[:, 5:].flatten(2)[images, classes.clamp(min=0), cells]
        boxes = cell_boxes(outputs).corners[images, cells]
        missed = 1 - paired_overlaps(boxes, corners.to(boxes))
        each = (missed - _inside(of_classes).log()) * is_object
        return found.mean(dim=1) + each.sum(dim=1) / is_object.sum(dim=1).clamp(min=1)

    def distances(self, outputs: Tensor, dense: Tensor) -> Tensor:
        ours, theirs = (maps.double().flatten(2) for maps in (outputs, dense))
        objectness = divergence(_both(ours[:, :1]), _both(theirs[:, :1]))
        classes = divergence(ours[:, 5:], theirs[:, 5:])
        boxes = [cell_boxes(maps.double()).corners for maps in (outputs, dense)]
        apart = 1 - paired_overlaps(*boxes)
        return (objectness + theirs[:, 0] * (classes + apart)).mean(dim=1)


def paired_overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (…, 4) one by one, (…,); 0 of boxes without area."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    own, other = ((each[..., 2:] - each[..., :2]).prod(dim=-1) for each in (first, second))
    return shared / (own + other - shared).clamp(min=1e-12)


def _inside(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(LEAST, 1 - LEAST)


def _both(objectness: Tensor) -> Tensor:
    """The probabilities of an object and of none, (batch, 2, cells)."""
    return torch.cat([objectness, 1 - objectness], dim=1)


def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(theirs ‖ ours) over axis 1, in nats."""
    ratio = theirs.clamp(min=LEAST).log() - ours.clamp(min=LEAST).log()
    # Of the clamped ones it may lie a little below 0.
    return (theirs * ratio).sum(dim=1).clamp(min=0)
