"""A class of each word, such as the kind of name that it is a part of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.tasks.class_metrics import IGNORED
from lowrank.tasks.heads.inputs import Encoded, column_of
from lowrank.tasks.heads.spans import F1, f1_of, has_spans, span_counts
from lowrank.tasks.heads.targets import ScoredClasses, class_numbers_of
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.splits import check_text

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection


@dataclass(frozen=True)
class WordClassTargets(ScoredClasses):
    """The class of each word, which the first of its tokens has to score, as
    AutoModelForTokenClassification does. Further tokens of a word, and those of none, do not count.

    Where all classes of the model but O begin with ``B-`` or ``I-``, "entity_f1" is the primary
    metric: F1 of the spans that are found whole, with their kind.

    Args:
        column: that of lists of class numbers, or of names that the model has.
    """

    one = "word"

    column: str = "ner_tags"

    def __post_init__(self) -> None:
        check_text("column", self.column)

    def answers(self, data: Dataset, source: Pretrained) -> Sequence[list[int]]:
        feature = data.features.get(self.column)
        names = getattr(getattr(feature, "feature", None), "names", None)
        found = list(column_of(data, self.column))
        for row, values in enumerate(found):
            if not isinstance(values, list):
                raise ValueError(
                    f"column {self.column!r} must hold lists of classes, and row {row} has "
                    f"{values!r:.60}"
                )
        flat = [value for values in found for value in values]
        numbers = iter(class_numbers_of(flat, names, source, self.column))
        return [[next(numbers) for _ in values] for values in found]

    def batch(
        self, wanted: list[list[int]], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        if encoded.words is None:
            raise ValueError("classes of words need inputs that are words, such as WordInputs()")
        labels = torch.full(encoded.inputs["input_ids"].shape, IGNORED)
        for place, (classes, words) in enumerate(zip(wanted, encoded.words, strict=True)):
            before = None
            for position, word in enumerate(words):
                if word is not None and word != before:
                    if word >= len(classes):
                        raise ValueError(
                            f"row {rows[place]} has more than {len(classes)} words, for which "
                            f"column {self.column!r} has {len(classes)} classes"
                        )
                    labels[place, position] = classes[word]
                before = word
        return Batch(encoded.inputs, labels, encoded.real)

    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> Tensor:
        return batch.run(model).logits.movedim(-1, 1)

    def judged_by(self, source: Pretrained) -> tuple[Metric, ...]:
        others = super().judged_by(source)
        return (F1, *others) if has_spans(_names(source)) else others

    def metrics(self, source: Pretrained) -> MetricCollection:
        """top1, macro_recall, macro_f1 of words, and entity_f1."""
        from lowrank.tasks.summed_scores import SummedScores

        found, names = super().metrics(source), _names(source)
        if has_spans(names):

            def counts(outputs: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
                return {F1.name: span_counts(outputs.argmax(dim=1), targets, names)}

            found.add_metrics({"spans": SummedScores([F1.name], counts, f1_of)})
        return found

    def count(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        counted = targets != IGNORED
        words = (outputs.movedim(1, -1)[counted], targets[counted])
        for name, metric in metrics.items():
            metric.update(*((outputs, targets) if name == "spans" else words))

    def influences(self, metrics: MetricCollection) -> dict[str, np.ndarray]:
        spans: Any = dict(metrics.items()).get("spans")
        return {} if spans is None else spans.influences()


def _names(source: Pretrained) -> list[str]:
    """The names of the model's classes, by number."""
    labels: Any = source.config.id2label
    return [str(labels[number]) for number in range(source.config.num_labels)]  # type: ignore
