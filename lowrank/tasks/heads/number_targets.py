"""A number of each text, such as how alike two sentences are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.tasks.agreement import OUTPUT_ERROR, output_error
from lowrank.tasks.heads.inputs import Encoded, column_of
from lowrank.tasks.heads.targets import Targets
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.splits import check_text
from lowrank.tasks.task import loss_metric

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection

PEARSON = Metric("pearson", "Pearson correlation (test split)", "Pearson r", average="mean")
SPEARMAN = Metric("spearman", "Spearman correlation (test split)", "Spearman ρ")


@dataclass(frozen=True)
class NumberTargets(Targets):
    """The number of each row, which a model with one label gives, as
    AutoModelForSequenceClassification does: a regression. The loss is the squared error.

    Outputs and targets: float32 (batch,).

    Args:
        column: that of numbers.
    """

    column: str = "label"

    def __post_init__(self) -> None:
        check_text("column", self.column)

    def answers(self, data: Dataset, source: Pretrained) -> Sequence[float]:
        if source.config.num_labels != 1:
            raise ValueError(
                f"model {source.name!r} has {source.config.num_labels} labels: it scores classes, "
                "and gives no number"
            )
        found = list(column_of(data, self.column))
        for row, value in enumerate(found):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value):
                raise ValueError(
                    f"column {self.column!r} must hold finite numbers, and row {row} has {value!r}"
                )
        return found

    def batch(
        self, wanted: list[float], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        return Batch(encoded.inputs, torch.tensor(wanted, dtype=torch.float32), encoded.real)

    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> Tensor:
        return batch.run(model).logits.squeeze(-1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.float(), targets)

    def predictions(self, batch: Batch) -> Tensor:
        return torch.ones(len(batch), dtype=torch.int64)

    def outcomes(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (outputs.float() - batch.targets).square()}

    def agreement(self, outputs: Tensor, dense: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {OUTPUT_ERROR.name: output_error(outputs, dense, batch)}

    def distance(self, outputs: Tensor, dense: Tensor, batch: Batch) -> Tensor:
        """The mean squared difference to the dense model's numbers."""
        return output_error(outputs, dense, batch).mean()

    def judged_by(self, source: Pretrained) -> tuple[Metric, ...]:
        return (PEARSON, SPEARMAN, loss_metric(), OUTPUT_ERROR)

    def metrics(self, source: Pretrained) -> MetricCollection:
        """pearson and spearman."""
        from torchmetrics import MetricCollection
        from torchmetrics.regression import SpearmanCorrCoef

        from lowrank.tasks.summed_scores import SummedScores

        pearson = SummedScores([PEARSON.name], _products, _correlation)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # That it keeps all numbers, which ranks need.
            spearman = SpearmanCorrCoef()
        metrics = {"linear": pearson, SPEARMAN.name: spearman}
        return MetricCollection(metrics, compute_groups=False)

    def count(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        metrics.update(outputs.float(), targets)

    def influences(self, metrics: MetricCollection) -> dict[str, np.ndarray]:
        linear: Any = metrics["linear"]
        return linear.influences()


def _products(outputs: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
    """Of each example what a correlation is made of, (batch, 6)."""
    x, y = (values.double().cpu().numpy() for values in (outputs, targets))
    return {PEARSON.name: np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)}


def _correlation(name: str, sums: np.ndarray) -> float:
    """Pearson's correlation from the sums of `_products`; NaN if a side has one value only."""
    n, x, y, xx, yy, xy = sums
    spread = (n * xx - x * x) * (n * yy - y * y)
    return float((n * xy - x * y) / math.sqrt(spread)) if spread > 0 else math.nan
