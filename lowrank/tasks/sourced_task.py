"""The base of tasks with a pretrained model on examples of two or three sources."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar

from lowrank.tasks.pretrained_task import PretrainedTask
from lowrank.tasks.splits import Division, divided
from lowrank.tasks.task import SplitName, check_split


class SourcedTask(PretrainedTask):
    """A pretrained model on examples that sources name; each final class is a frozen dataclass.

    Splits: `test` is all of the source `test`. `validation` is all of the source `validation` if
    there is one, or else `validation_size` examples of the source `train`; its others are `train`,
    of which `calibration` is a part.

    Attributes:
        units: the word for the examples.
        test, train, validation: the sources.
        validation_size: a tenth of the examples of `train`, at most 1000, if not given.
        calibration_size: 256, or all of the split `train` if it has fewer, if not given.
        calibration_seed: draws `calibration` from `train`; by default the first ones are taken.
        split_seed: draws `validation` from the source `train`.
    """

    units: ClassVar[str]

    test: Any
    train: Any
    validation: Any = None
    validation_size: int | None
    calibration_size: int | None
    calibration_seed: int | None
    split_seed: int

    @abstractmethod
    def _read(self, source: Any) -> Any:
        """The examples of a source: a split with a method `part`."""

    def _ordered(self, found: Any) -> Any:
        """The examples of `test` in the order in which they run; by default as they are."""
        return found

    def split(self, name: SplitName) -> Any:
        check_split(name)
        if name == "test":
            return self._test_examples
        if name == "validation" and self.validation is not None:
            return self._validation_examples
        return self._train_examples.part(self._division.rows(name))

    @cached_property
    def _test_examples(self) -> Any:
        return self._ordered(self._read(self.test))

    @cached_property
    def _train_examples(self) -> Any:
        return self._read(self.train)

    @cached_property
    def _validation_examples(self) -> Any:
        return self._read(self.validation)

    @cached_property
    def _division(self) -> Division:
        return divided(
            len(self._train_examples),
            (0 if self.validation is not None else self.validation_size, self.calibration_size),
            most=(1000, 256),
            of=f"{self.units} of {self.train}",
            calibration_seed=self.calibration_seed,
            split_seed=self.split_seed,
        )
