"""The interface of formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from torch import nn

from lowrank.export.formats.plan import ExportPlan


class Format(ABC):
    """A format of files that another tool loads. Subclasses are frozen dataclasses, whose fields
    are the options of the format.

    Attributes:
        name: by which it is chosen.
        libraries: import names of what writing needs, which are looked for before any work.
        is_dense: whether all layers are multiplied out by what the format is, so that no leave to
            do so is asked for.
    """

    name: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]] = ()
    is_dense: ClassVar[bool] = False

    @abstractmethod
    def plan(self, model: nn.Module) -> ExportPlan:
        """What `write` would write of a model, without multiplying anything out.

        Raises:
            ValueError: a model that the format does not hold at all, with what it does hold.
        """

    @abstractmethod
    def write(self, model: nn.Module, plan: ExportPlan, folder: Path) -> None:
        """Write the files into an empty folder.

        Args:
            plan: of this model.
        """

    def as_base(self) -> Format:
        """The format with those options with which PEFT loads the base of an adapter from it.

        Raises:
            ValueError: PEFT loads none.
        """
        raise ValueError(f"base_format={self.name!r} is no format that PEFT loads a base from")
