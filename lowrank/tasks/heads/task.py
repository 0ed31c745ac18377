"""Any model of transformers, by name or folder, for any dataset of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.model.forward import Example
from lowrank.model.nested import with_tensors
from lowrank.numerics.checks import check_is
from lowrank.tasks.heads.inputs import ModelInputs
from lowrank.tasks.heads.rows import HubRows, RowSplit
from lowrank.tasks.heads.targets import Targets
from lowrank.tasks.heads.trained_head import TrainedHead
from lowrank.tasks.pretrained import auto_class
from lowrank.tasks.sourced_task import SourcedTask
from lowrank.tasks.splits import (
    check_division,
    check_seed,
    check_text,
    counted,
    named,
)
from lowrank.tasks.task import BatchSizes

if TYPE_CHECKING:
    import numpy as np
    from torchmetrics import MetricCollection


@dataclass(frozen=True)
class TransformersTask(SourcedTask):
    """Any model of transformers with its head, on rows of the hub.

    The processor of the model makes its inputs, batch by batch.

    Splits: `test` is the rows `test`. `validation` is the rows `validation` if given, or else
    `validation_size` of the rows `train`; the others are `train`, and `calibration` is a part of
    these.

    Args:
        name: the name of the task in records; that of the test data if None.
        architecture: the model's name in records.
        pretrained: the model's name in the mirror or on the hub, or its folder, with its own
            tokenizer or processor.
        auto: the class of transformers that makes the model, such as
            AutoModelForTokenClassification.
        test, train, validation: the rows; they must differ.
        inputs: what the model is given of a row.
        targets: what is wanted of it, and by what it is judged.
        head: how the model gets a head that its files lack; None if they have all of it.
        dtype: the dtype of the weights, float32, float16 or bfloat16, whatever the file has.
        revision: a commit of the model on the hub.
        trust_remote_code: whether code that comes with the model may run.
        validation_size: a tenth of the rows of `train`, at most 1000, if not given.
        calibration_size: 256, or all of the split `train` if it has fewer, if not given.
        calibration_seed: draws `calibration` from `train`; by default the first ones are taken.
        split_seed: draws `validation` from the rows `train`.
        seed: the seed of the order of batches.

    Raises:
        ValueError: an option of the wrong kind; from the methods, a missing model, processor or
            column, a model without such a head, or rows that do not fit it.
    """

    units = "rows"
    batch_sizes = BatchSizes(quality=16, latency=(1,))

    name: str | None  # never None after __post_init__
    architecture: str
    pretrained: str
    auto: str
    test: HubRows
    train: HubRows
    inputs: ModelInputs
    targets: Targets
    head: TrainedHead | None = None
    validation: HubRows | None = None
    validation_size: int | None = None
    calibration_size: int | None = None
    calibration_seed: int | None = None
    split_seed: int = 0
    dtype: str = "float32"
    revision: str | None = None
    trust_remote_code: bool = False
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        sources = {"test": self.test, "train": self.train}
        if self.validation is not None:
            sources["validation"] = self.validation
        for name, rows in sources.items():
            check_is(name, rows, HubRows, "HubRows(dataset, split)")
        if len(set(sources.values())) < len(sources):
            raise ValueError(f"the rows {' and '.join(sources)} must differ: {sources}")
        if self.validation is not None and self.validation_size is not None:
            raise ValueError(
                f"validation_size={self.validation_size} is of no effect beside "
                f"validation={self.validation}: leave it out"
            )
        object.__setattr__(self, "name", named(self.name, self.test.name))
        check_text("architecture", self.architecture)
        check_text("auto", self.auto)
        check_is("inputs", self.inputs, ModelInputs, "TextInputs()")
        check_is("targets", self.targets, Targets, "ClassTargets()")
        if self.head is not None:
            check_is("head", self.head, TrainedHead, "TrainedHead('qa_outputs', Training(...))")
        check_division(
            self.validation_size, self.calibration_size, self.calibration_seed, self.split_seed
        )
        check_seed("seed", self.seed)
        _ = self._pretrained  # Made here to check its options.
        need("measures of a model of transformers", "torchmetrics")

    def network(self) -> nn.Module:
        return self._pretrained.network(auto_class(self.auto))

    def model(self) -> nn.Module:
        if self.head is not None:
            return self.head.model(self._pretrained, self.auto, self, self.targets)
        model = self._pretrained.model(auto_class(self.auto))
        return model.to(self.device)  # type: ignore[arg-type]

    @property
    def draws_model(self) -> bool:
        return self.head is not None

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        return self.targets.outputs(model, batch, self._pretrained)

    def predict(self, model: nn.Module, batch: Batch) -> Any:
        return self.targets.predict(model, batch, self._pretrained)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return self.targets.loss(outputs, targets)

    def predictions(self, batch: Batch) -> Tensor:
        return self.targets.predictions(batch)

    def outcomes(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        return self.targets.outcomes(outputs, batch)

    def agreement(self, outputs: Any, dense: Any, batch: Batch) -> dict[str, Tensor]:
        return self.targets.agreement(outputs, dense, batch)

    def distance(self, outputs: Any, dense: Any, batch: Batch) -> Tensor:
        return self.targets.distance(outputs, dense, batch)

    def judged_by(self) -> tuple[Metric, ...]:
        return self.targets.judged_by(self._pretrained)

    def metrics(self) -> MetricCollection:
        return self.targets.metrics(self._pretrained).to(self.device)

    def count(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        self.targets.count(metrics, outputs, targets)

    def influences(self, metrics: MetricCollection) -> dict[str, np.ndarray]:
        return self.targets.influences(metrics)

    def example(self, batch_size: int = 1) -> Example:
        """The first test example, as often as asked for, hence without padding."""
        batch = self._test_examples.batch(torch.zeros(batch_size, dtype=torch.int64))
        return self.targets.example(batch.inputs, self._pretrained)

    def protocol(self) -> dict[str, Any]:
        """The numbers of examples, and what the targets depend on."""
        counts = counted(self.split, "examples")
        return {**super().protocol(), "auto": self.auto, **counts, **self.targets.protocol()}

    def _read(self, source: HubRows) -> RowSplit:
        data, model = source.read(), self._pretrained
        try:
            given = self.inputs.examples(data, model)
            wanted = self.targets.answers(data, model)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error

        def make(given: list[Any], wanted: list[Any], numbers: list[int]) -> Batch:
            try:
                encoded = self.inputs.encode(given, model, numbers)
                batch = self.targets.batch(wanted, encoded, model, numbers)
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from error
            inputs = with_tensors(batch.inputs, model.in_dtype)
            parts = (inputs, batch.targets, dict(batch.real))
            return Batch(*with_tensors(parts, lambda tensor: tensor.to(self.device)))

        return RowSplit(given, wanted, torch.arange(len(data)), make)
