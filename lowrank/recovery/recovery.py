"""The interface of recoveries: fine-tuning and cheaper methods that follow compression."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import nn

from lowrank.compression.report import Compressed
from lowrank.tasks import Task
from lowrank.tasks.task import SplitName
from lowrank.tasks.training.training import Progress, silent


class Recovery(ABC):
    """Restores quality lost in compression; some recoveries are applied to the dense model too.

    Laws: `recover` keeps the form of every factorization, unless `changes_forms`, and
    `recover_compressed` the way in which the model was compressed; parameters that require no
    gradient are not trained; the model keeps its mode, training or eval; the same model, task and
    configuration give the same result, times ("step_s") aside.
    """

    @property
    @abstractmethod
    def changes_dense(self) -> bool:
        """Whether the dense model is recovered too, so that the comparison is fair.

        False if the dense model is the target, which the recovery would not change.
        """

    @property
    @abstractmethod
    def tunes(self) -> bool:
        """Whether it takes gradient steps on data; records and figures mark such models."""

    @property
    def changes_forms(self) -> bool:
        """Whether it puts other factorizations in the place of those that compression made."""
        return False

    @property
    def begins_dense(self) -> bool:
        """Whether it begins with the trained dense model of the task, as one in which the method
        compresses again does, so that what was done to the compressed model before is lost."""
        return False

    @property
    def learns_from(self) -> SplitName | None:
        """The split whose examples it uses, as records say; None if it uses none.

        ``validation`` if it also chooses there, as early stopping does.
        """
        return "train"

    @abstractmethod
    def check(self, network: nn.Module) -> None:
        """Check on the untrained dense network that `recover` can do anything.

        Raises:
            ValueError: it cannot.
        """

    def check_data(self, task: Task) -> None:
        """Check that the splits of a task suffice for `recover`; may read them.

        Raises:
            ValueError: they do not.
        """
        del task

    def check_forms(self, model: nn.Module) -> None:
        """Check that `recover` can begin with the factorizations of a compressed model.

        So an error comes before the recoveries that run first, which may train for hours.

        Raises:
            ValueError: it cannot.
        """
        del model

    @abstractmethod
    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        """Change `model` in place, with data of the train split only, of which calibration is a
        part.

        Args:
            progress: called with (epochs done, epochs in all, mean loss) after each epoch.

        Returns:
            Values for the record of the point, as JSON.
        """

    def recover_toward(
        self, model: nn.Module, dense: nn.Module, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        """What `recover` does, toward a dense model that may be another than the task's.

        By default `recover`, which has no such target.
        """
        del dense
        return self.recover(model, task, progress)

    def recover_compressed(
        self, compressed: Compressed, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        """Change the result of a compression in place, its model and its report.

        Args:
            progress: see `recover`.

        Returns:
            Values for the record of the point, as JSON.

        Raises:
            ValueError: it must be compressed again, and does not know how.
        """
        found = self.change(compressed, task, progress)
        compressed.remeasure()
        return found

    def change(
        self, compressed: Compressed, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        """What `recover_compressed` does before it measures the report anew.

        By default `recover_toward` of its model and the dense one of which it was made. A recovery
        in which the method compresses again uses `Compressed.again`; the model is another one then.
        """
        return self.recover_toward(compressed.model, compressed.dense, task, progress)


@dataclass(frozen=True)
class NoRecovery(Recovery):
    """No recovery: the model stays as compression left it."""

    @property
    def changes_dense(self) -> bool:
        return False

    @property
    def tunes(self) -> bool:
        return False

    @property
    def learns_from(self) -> SplitName | None:
        return None

    def check(self, network: nn.Module) -> None:
        pass

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        return {}

    def recover_compressed(
        self, compressed: Compressed, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        return {}
