"""The base of classifiers with a network of one's own, trained here or published."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.forward import call
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.builders import built
from lowrank.tasks.class_metrics import class_collection, class_metrics
from lowrank.tasks.class_scores import ClassScores
from lowrank.tasks.splits import (
    Division,
    TestDivision,
    ValidationFrom,
    check_division,
    check_seed,
    check_text,
    divided,
    divided_test,
)
from lowrank.tasks.task import Split, SplitName, check_split, loss_metric
from lowrank.tasks.weights import Weights

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Labelled(Protocol):
    """Examples with their labels, int64 (count,), and the number of classes if it is known."""

    @property
    def labels(self) -> Tensor: ...
    @property
    def classes(self) -> int | None: ...


class OwnClassifier(ClassScores):
    """A classifier of examples that lie in memory; each final class is a frozen dataclass.

    Splits: `test` is the data's own. Of the train data, `validation_size` examples are `validation`
    and the others `train`; `calibration` is a part of `train`. `split_seed` draws the split, not
    `seed`. Published weights may have been trained on these `validation` examples: with
    ``validation_from="test"`` they are a part of the test data, which `test` then leaves out.

    Attributes:
        units: the word for its examples.
        builder: ``package.module:function`` (or a class) that makes the network, given `arguments`.
        weights: the source of the network's weights; None keeps those of the builder.
        validation_size: a tenth of the examples that it is taken from, at most 1000, if None.
        calibration_size: 512, or all of `train` if it has fewer, if None.
        calibration_seed: draws `calibration` from `train`; by default the first examples are taken.
    """

    units: ClassVar[str]

    builder: str
    arguments: Mapping[str, Any]
    weights: Weights | None
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
        check_text("architecture", self.architecture)
        check_text("builder", self.builder)
        if not isinstance(self.arguments, Mapping):
            raise ValueError(f"arguments={self.arguments!r} must be a mapping of names to values")
        if self.weights is not None and not isinstance(self.weights, Weights):
            raise ValueError(
                f"weights={self.weights!r} must be None or Weights, such as Published(repository)"
            )
        check_division(
            self.validation_size,
            self.calibration_size,
            self.calibration_seed,
            self.split_seed,
            self.validation_from,
        )
        need("a classifier's measures", "torchmetrics")
        check_seed("seed", self.seed)

    @property
    def draws_model(self) -> bool:
        return self.weights is None or self.weights.draws

    def check(self) -> None:
        super().check()
        self._check_outputs(self.network())
        if self.weights is not None:
            self.weights.check()

    def network(self) -> nn.Module:
        # The caller's random state is restored.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return built(self.builder, self.arguments, self.name)

    def model(self) -> nn.Module:
        model = self.network()
        self._check_outputs(model)
        if self.weights is not None:
            self.weights.fill(model, self, self.builder, self.arguments)
        return model.to(self.device).eval()

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
        inputs = next(self.split("test").batches(1)).only.cpu()
        try:
            with torch.no_grad():
                outputs = call(model.eval(), (inputs,))
        except ValueError as error:
            raise ValueError(
                f"the network of {self.builder}, of task {self.name!r}, does not take "
                f"{self.units} of shape {tuple(inputs.shape)}: {error}"
            ) from error
        given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        if given != (1, self.classes):
            raise ValueError(
                f"the network of {self.builder} gives {given} for one example, not logits of shape "
                f"(1, {self.classes}): the data have {self.classes} classes"
            )
