"""The base of recoveries that train the model as the task does."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lowrank.factorizations import Factorization
from lowrank.recovery.recovery import Recovery
from lowrank.tasks import Task
from lowrank.tasks.task import SplitName
from lowrank.tasks.training.optimizers import check_left_rate
from lowrank.tasks.training.options import TrainingOptions
from lowrank.tasks.training.training import Training


@dataclass(frozen=True)
class ByTraining(TrainingOptions, Training, Recovery):
    """A recovery whose settings are those of `Training` and `TrainingOptions`; the dense model gets
    the same training."""

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        TrainingOptions.__post_init__(self)

    @property
    def learns_from(self) -> SplitName:
        # What stops a training decides about the weights too.
        return "train" if self.patience is None else "validation"

    @property
    def changes_dense(self) -> bool:
        return True

    @property
    def tunes(self) -> bool:
        return True

    def check(self, network: nn.Module) -> None:
        # Only the compressed model, or what it is made of, has the parameters that are trained.
        pass

    def check_data(self, task: Task) -> None:
        self.check_task(task)

    def check_forms(self, model: nn.Module) -> None:
        check_left_rate(model, self.left_rate)


def check_no_adapters(recovery: ByTraining, model: nn.Module) -> None:
    """Raise ValueError if a recovery that begins with the dense model is to train adapters.

    It trains every weight of the dense model, and the method compresses what they became.
    """
    forms = (part for part in model.modules() if isinstance(part, Factorization))
    adapter = next((part for part in forms if part.adapts), None)
    if adapter is not None:
        raise ValueError(
            f"{type(recovery).__name__} would train the frozen base of the adapters, here beside "
            f"{adapter.describe()}, for it trains the dense model and compresses it again: take a "
            'FineTune(scope="factorizations"), which trains the adapters alone, or no adapter'
        )


def check_no_patience(recovery: ByTraining) -> None:
    """Raise ValueError if a recovery that compresses while it trains is to stop early."""
    if recovery.patience is not None:
        raise ValueError(
            f"patience={recovery.patience} would end {type(recovery).__name__} before the model is "
            "compressed as asked: leave it out, or let a FineTune with patience follow in InOrder"
        )
