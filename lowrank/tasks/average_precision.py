"""Average precision of boxes, as of COCO, and what single images do to it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowrank.files.extras import need
from lowrank.tasks.boxes import Boxes
from lowrank.tasks.object_sources import Objects

# Intersection over union at which a box is right, and the recalls at which precision is read.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
# Boxes of one image that count, those of the highest scores.
MOST = 100


@dataclass(frozen=True)
class Matches:
    """The boxes found in images, and how many there are to find.

    Attributes:
        images: int64, (found,), the number of the image of each box found.
        classes: int64, (found,).
        scores: float64, (found,).
        is_right: bool, (found, 10), whether it is an object's, at each of `THRESHOLDS`.
        wanted: int64, (images, classes), the number of objects.
    """

    images: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    is_right: np.ndarray
    wanted: np.ndarray


def matches(found: Sequence[Boxes], objects: Objects, classes: int) -> Matches:
    """Which boxes are right, by pycocotools: in falling order of score each takes the object of its
    class, in its image, that it overlaps most and none before it took.

    Args:
        found: the boxes of each image.
        objects: those of the same images.

    Raises:
        MissingExtra: without the extra ``detection``.
    """
    need("average precision", "pycocotools")
    with contextlib.redirect_stdout(io.StringIO()):  # It prints what it does.
        judge = _judge(found, objects, classes)
        judge.evaluate()
    wanted = np.zeros((len(found), classes), dtype=np.int64)
    known = objects.classes.cpu().numpy()
    rows, places = np.nonzero(known >= 0)
    np.add.at(wanted, (rows, known[rows, places]), 1)
    parts = [
        (
            np.full(len(one["dtScores"]), one["image_id"]),
            np.full(len(one["dtScores"]), one["category_id"]),
            np.asarray(one["dtScores"], dtype=np.float64),
            one["dtMatches"].T > 0,
        )
        for one in judge.evalImgs
        if one is not None
    ]
    none = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
    parts.append((*none, np.zeros((0, len(THRESHOLDS)), dtype=bool)))
    images, labels, scores, is_right = map(np.concatenate, zip(*parts, strict=True))
    return Matches(images, labels, scores, is_right, wanted)


def _judge(found: Sequence[Boxes], objects: Objects, classes: int) -> Any:
    """The COCOeval of boxes in pixels, for images 0, 1, … and all classes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    known, said = [], []
    for number, boxes in enumerate(found):
        size = objects.sizes[number].repeat(2)
        is_object = objects.classes[number] >= 0
        own = (objects.corners[number][is_object] * size, objects.classes[number][is_object])
        for corners, label in zip(*(each.tolist() for each in own), strict=True):
            known.append(_entry(number, corners, label, id=len(known) + 1, iscrowd=0))
        theirs = (boxes.corners.to(size) * size, boxes.classes, boxes.scores)
        for corners, label, score in zip(*(each.tolist() for each in theirs), strict=True):
            said.append(_entry(number, corners, label, id=len(said) + 1, score=score, iscrowd=0))
    images = [{"id": number} for number in range(len(found))]
    both: list[Any] = []
    for entries in (known, said):
        every: Any = COCO()
        every.dataset = {
            "images": images,
            "categories": [{"id": label} for label in range(classes)],
            "annotations": entries,
        }
        every.createIndex()
        both.append(every)
    judge: Any = COCOeval(both[0], both[1], "bbox")
    judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], ["all"]
    judge.params.maxDets = [MOST]
    return judge


def _entry(image: int, corners: Sequence[float], label: int, **more: Any) -> dict[str, Any]:
    left, top, right, bottom = corners
    sides = [left, top, right - left, bottom - top]
    named = {"image_id": image, "category_id": label, "bbox": sides, "area": sides[2] * sides[3]}
    return named | more


def average_precisions(found: Matches) -> np.ndarray:
    """The average precision of each class at each of `THRESHOLDS`, (classes, 10).

    The mean over `RECALLS` of the largest precision at that recall or above; NaN of a class
    without objects.
    """
    each = [_of_class(found, label) for label in range(found.wanted.shape[1])]
    return np.stack([_average(*one) for one in each])


def precisions_without(found: Matches) -> np.ndarray:
    """`average_precisions` without each image in turn, (images, classes, 10)."""
    count, classes = found.wanted.shape
    without = np.repeat(average_precisions(found)[None], count, axis=0)
    for label in range(classes):
        is_right, wanted = _of_class(found, label)
        images = _sorted(found, label, found.images)
        # Another image changes nothing of this class.
        for image in np.union1d(images, np.nonzero(found.wanted[:, label])[0]):
            rest = wanted - found.wanted[image, label]
            without[image, label] = _average(is_right[images != image], rest)
    return without


def _of_class(found: Matches, label: int) -> tuple[np.ndarray, int]:
    """Of a class, which boxes are right in falling order of score, and the number of objects."""
    return _sorted(found, label, found.is_right), int(found.wanted[:, label].sum())


def _sorted(found: Matches, label: int, values: np.ndarray) -> np.ndarray:
    rows = np.nonzero(found.classes == label)[0]
    return values[rows[np.argsort(-found.scores[rows], kind="stable")]]


def _average(is_right: np.ndarray, wanted: int) -> np.ndarray:
    if wanted == 0:
        return np.full(len(THRESHOLDS), np.nan)
    right = is_right.cumsum(axis=0)
    recall = right / wanted
    precision = right / np.arange(1, len(right) + 1)[:, None]
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    best = np.concatenate([best, np.zeros((1, len(THRESHOLDS)))])  # Of recalls not reached.
    places = [np.searchsorted(recall[:, t], RECALLS) for t in range(len(THRESHOLDS))]
    return np.array([best[place, t].mean() for t, place in enumerate(places)])
