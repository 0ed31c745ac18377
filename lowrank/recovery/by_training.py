"""The base of recoveries that train the model as the task does."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lowrank.recovery.recovery import Recovery
from lowrank.tasks.training import Training


@dataclass(frozen=True)
class ByTraining(Training, Recovery):
    """A recovery whose settings are those of `Training`; the dense model gets the same training."""

    @property
    def changes_dense(self) -> bool:
        return True

    @property
    def tunes(self) -> bool:
        return True

    def check(self, network: nn.Module) -> None:
        # Only the compressed model, or what it is made of, has the parameters that are trained.
        pass
