"""The base of classifiers with a network of one's own, trained here or published."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.class_metrics import class_collection, class_metrics
from lowrank.tasks.class_scores import ClassScores
from lowrank.tasks.own_network import OwnNetwork
from lowrank.tasks.splits import (
    Division,
    TestDivision,
    ValidationFrom,
    check_division,
    divided,
    divided_test,
)
from lowrank.tasks.task import Split, SplitName, check_split, loss_metric

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Labelled(Protocol):
    """Examples with their labels, int64 (count,), and the number of classes if it is known."""

    @property
    def labels(self) -> Tensor: ...
    @property
    def classes(self) -> int | None: ...


class OwnClassifier(OwnNetwork, ClassScores):
    """A classifier of examples that lie in memory; each final class is a frozen dataclass.

    Splits: `test` is the data's own. Of the train data, `validation_size` examples are `validation`
    and the others `train`; `calibration` is a part of `train`. `split_seed` draws the split, not
    `seed`. Published weights may have been trained on these `validation` examples: with
    ``validation_from="test"`` they are a part of the test data, which `test` then leaves out.

    Attributes:
        validation_size: a tenth of the examples that it is taken from, at most 1000, if None.
        calibration_size: 512, or all of `train` if it has fewer, if None.
        calibration_seed: draws `calibration` from `train`; by default the first examples are taken.
    """

    validation_size: int | None
    validation_from: ValidationFrom
    calibration_size: int | None
    calibration_seed: int | None
    split_seed: int

    @abstractmethod
    def _read(self, part: Literal["train", "test"]) -> Labelled:
        """The train or the test data, on the task's device."""

    @abstractmethod
    def _rows(self, data: Any, rows: Tensor) -> Split:
        """The examples at `rows` of what `_read` gives."""

    def _check_options(self) -> None:
        """Raise ValueError for options of the wrong kind."""
        self._check_network()
        check_division(
            self.validation_size,
            self.calibration_size,
            self.calibration_seed,
            self.split_seed,
            self.validation_from,
        )
        need("a classifier's measures", "torchmetrics")

    def split(self, name: SplitName) -> Split:
        check_split(name)
        if name == "test" or (name == "validation" and self.validation_from == "test"):
            return self._rows(self._test_data, getattr(self._test_division, name))
        return self._rows(self._train_data, self._division.rows(name))

    def whole_test(self) -> Split | None:
        if self.validation_from == "train":
            return None
        return self._rows(self._test_data, torch.arange(len(self._test_data.labels)))

    def judged_by(self) -> tuple[Metric, ...]:
        return (
            *class_metrics(self.classes, self.top),
            loss_metric(),
            *agreement_metrics("example"),
        )

    def metrics(self) -> MetricCollection:
        """top1, top5, macro_recall and macro_f1; with 5 or fewer classes top5 is 1."""
        return class_collection(self.classes, self.top).to(self.device)

    def protocol(self) -> dict[str, Any]:
        """The number of examples in each split."""
        return {
            f"test_{self.units}": len(self.split("test")),
            f"train_{self.units}": len(self._division.train),
            f"validation_{self.units}": len(self.split("validation")),
            f"calibration_{self.units}": len(self._division.calibration),
        }

    @cached_property
    def classes(self) -> int:
        """The number of classes, from the dataset's description or else from its labels."""
        if self._test_data.classes is not None:
            return self._test_data.classes
        return 1 + int(max(self._test_data.labels.max(), self._train_data.labels.max()))

    @cached_property
    def _train_data(self) -> Labelled:
        return self._read("train")

    @cached_property
    def _test_data(self) -> Labelled:
        return self._read("test")

    @cached_property
    def _test_division(self) -> TestDivision:
        found = len(self._test_data.labels)
        size, seed = self.validation_size, self.split_seed
        return divided_test(found, size, 1000, f"test {self.units}", self.validation_from, seed)

    @cached_property
    def _division(self) -> Division:
        return divided(
            len(self._train_data.labels),
            (self.validation_size if self.validation_from == "train" else 0, self.calibration_size),
            most=(1000, 512),
            of=f"{self.units} to learn from",
            calibration_seed=self.calibration_seed,
            split_seed=self.split_seed,
        )

    def _check_outputs(self, model: nn.Module) -> None:
        given = self._given(model, next(self.split("test").batches(1)).only)
        if given != (1, self.classes):
            raise ValueError(
                f"the network of {self.builder} gives {given} for one example, not logits of shape "
                f"(1, {self.classes}): the data have {self.classes} classes"
            )
