"""Average precision as a metric. Imports torchmetrics, so it should be imported only when needed.

Raises:
    MissingExtra: when imported without the extra ``tasks``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.statistics.jackknife import jackknife
from lowrank.tasks.average_precision import (
    Matches,
    average_precisions,
    matches,
    precisions_without,
)
from lowrank.tasks.boxes import Boxes
from lowrank.tasks.object_sources import Objects

need("a metric of boxes", "torchmetrics")
from torchmetrics import Metric  # noqa: E402  Not before its absence is said.


class AveragePrecision(Metric):
    """ "ap50" at an intersection over union of 0.5 and "ap", the mean over 0.5, 0.55, … 0.95: means
    over the classes that have objects.

    Args:
        classes: their number.
    """

    full_state_update = False

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.class_count = classes
        for field in fields(Matches):
            self.add_state(field.name, [], dist_reduce_fx="cat")

    def update(self, found: Sequence[Boxes], objects: Objects) -> None:
        given = matches(found, objects, self.class_count)
        seen = sum(len(wanted) for wanted in self._values("wanted"))
        self._values("images").append(torch.from_numpy(given.images + seen))
        for field in fields(Matches)[1:]:
            self._values(field.name).append(torch.from_numpy(getattr(given, field.name)))

    def compute(self) -> dict[str, Tensor]:
        found = _means(average_precisions(self._matches())[None])
        return {name: torch.tensor(values[0]) for name, values in found.items()}

    def influences(self) -> dict[str, np.ndarray]:
        """The influence of each image on each score, (images,), by the jackknife."""
        found = _means(precisions_without(self._matches()))
        return {name: jackknife(values) for name, values in found.items()}

    def _values(self, name: str) -> list[Tensor]:
        return getattr(self, name)

    def _matches(self) -> Matches:
        each = (torch.cat(self._values(field.name)).numpy() for field in fields(Matches))
        return Matches(*each)


def _means(precisions: np.ndarray) -> dict[str, np.ndarray]:
    """The means over classes of (…, classes, 10)."""
    is_known = ~np.isnan(precisions[..., 0])
    known = np.where(is_known[..., None], precisions, 0.0)
    means = known.sum(axis=-2) / is_known.sum(axis=-1)[..., None]
    return {"ap50": means[..., 0], "ap": means.mean(axis=-1)}
