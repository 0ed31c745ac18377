"""Tasks on a source of four parts: three splits, and the whole of which the test split is one."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lowrank.tasks.splits import calibration_rows, check_texts_of, counted
from lowrank.tasks.task import Split, SplitName, Task, check_split

HubPart = Literal["train", "validation", "test", "whole"]
# The fields of a source that name splits.
SPLITS: tuple[HubPart, ...] = ("train", "validation", "test", "whole")


def check_parts(source: Any) -> None:
    """Raise ValueError unless a source names three splits, and what they are parts of or None."""
    check_texts_of(source, SPLITS[:3], SPLITS[3:])
    names = [getattr(source, name) for name in SPLITS]
    if len(set(names[:3])) < 3 or names[3] in names[:3]:
        said = ", ".join(f"{name}={split!r}" for name, split in zip(SPLITS, names, strict=True))
        raise ValueError(
            f"{said}: train, validation and test must be three splits that do not overlap, and "
            "whole another, of which test is a part, or None"
        )


class OfParts(Task):
    """A task whose splits are those of its source; `calibration` is a part of `train`.

    Where `source.whole` is given, `test` is a part of it, and the dense model is measured on both.

    Attributes:
        units: the word for its examples.
        source: it names the splits.
        calibration_size: all of `train` if None.
        calibration_seed: draws `calibration` from `train`; by default the first examples are taken.
    """

    units: ClassVar[str]

    source: Any
    calibration_size: int | None
    calibration_seed: int | None

    @abstractmethod
    def _read(self, part: HubPart) -> Any:
        """The examples of a part, with their number as length, on the task's device."""

    @abstractmethod
    def _rows(self, found: Any, rows: Tensor) -> Split:
        """The examples at `rows` of what `_read` gives."""

    def split(self, name: SplitName) -> Split:
        check_split(name)
        if name == "calibration":
            found = self._part("train")
            return self._rows(found, self._calibration(len(found)))
        return self._all(name)

    def whole_test(self) -> Split | None:
        return None if self.source.whole is None else self._all("whole")

    def protocol(self) -> dict[str, Any]:
        """The number of examples in each split."""
        return counted(self.split, self.units)

    def _all(self, part: HubPart) -> Split:
        found = self._part(part)
        return self._rows(found, torch.arange(len(found)))

    def _part(self, part: HubPart) -> Any:
        if part not in self._found:
            self._found[part] = self._read(part)
        return self._found[part]

    @cached_property
    def _found(self) -> dict[HubPart, Any]:
        return {}

    def _calibration(self, found: int) -> Tensor:
        size = found if self.calibration_size is None else self.calibration_size
        return calibration_rows(found, size, self.calibration_seed, self.units)
