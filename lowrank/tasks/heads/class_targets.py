"""A class of each text, image or sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lowrank.model.batch import Batch
from lowrank.tasks.heads.inputs import Encoded, column_of
from lowrank.tasks.heads.targets import ScoredClasses, class_numbers_of
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.splits import check_text

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class ClassTargets(ScoredClasses):
    """The class of each row, as AutoModelForSequenceClassification, AutoModelForImageClassification
    and AutoModelForAudioClassification score it.

    Args:
        column: that of class numbers, or of names that the model has.
    """

    column: str = "label"

    def __post_init__(self) -> None:
        check_text("column", self.column)

    def answers(self, data: Dataset, source: Pretrained) -> Sequence[int]:
        names = getattr(data.features.get(self.column), "names", None)
        values = list(column_of(data, self.column))
        return class_numbers_of(values, names, source, self.column)

    def batch(
        self, wanted: list[int], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        return Batch(encoded.inputs, torch.tensor(wanted), encoded.real)
