"""What comes after compression: the interface of fine-tuning and of its cheaper relatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import nn

from lowrank.tasks import Task
from lowrank.tasks.training import Progress, silent


class Recovery(ABC):
    """Brings back quality that compression cost; the dense model may be given the same treatment.

    Laws: the form of every factorization stays; what does not require a gradient is not trained;
    the model comes back in the mode, training or eval, that it had; the same model, task and
    configuration give the same result.
    """

    @property
    @abstractmethod
    def changes_dense(self) -> bool:
        """Whether the dense model is given the treatment too, so that both are after it.

        False where the dense model is the aim, and nothing would change in it.
        """

    @property
    @abstractmethod
    def tunes(self) -> bool:
        """Whether it takes gradient steps on data; records and figures tell such models apart."""

    @abstractmethod
    def check(self, network: nn.Module) -> None:
        """Find out from the untrained dense network whether `recover` has anything to do in it.

        Raises:
            ValueError: it has not.
        """

    def check_data(self, task: Task) -> None:
        """Find out whether the splits of a task are enough for `recover`; may read them.

        Raises:
            ValueError: they are not.
        """
        del task

    @abstractmethod
    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        """Change `model` in place, using the train split (of which calibration is a part) only.

        Args:
            progress: called with (epochs done, epochs in all, mean loss) after each epoch.

        Returns:
            What the record of a run should hold, as JSON.
        """


@dataclass(frozen=True)
class NoRecovery(Recovery):
    """The model as it is: one-shot compression."""

    @property
    def changes_dense(self) -> bool:
        return False

    @property
    def tunes(self) -> bool:
        return False

    def check(self, network: nn.Module) -> None:
        pass

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        return {}
