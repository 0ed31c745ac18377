"""Sequences of recoveries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lowrank.compression.report import Compressed
from lowrank.recovery.recovery import Progress, Recovery, silent
from lowrank.tasks import Task


@dataclass(frozen=True)
class InOrder(Recovery):
    """Recoveries one after the other, such as a bias correction and then a tuning.

    Args:
        steps: at least one.

    Raises:
        ValueError: no steps, or something else among them.
    """

    steps: Sequence[Recovery]

    def __post_init__(self) -> None:
        are_steps = isinstance(self.steps, Sequence) and not isinstance(self.steps, str)
        if not are_steps or not self.steps:
            raise ValueError(f"steps={self.steps!r} must be a list of at least one recovery")
        for step in self.steps:
            if not isinstance(step, Recovery):
                raise ValueError(f"steps hold {step!r}, and must be recoveries, such as Tune()")

    @property
    def changes_dense(self) -> bool:
        return any(step.changes_dense for step in self.steps)

    @property
    def tunes(self) -> bool:
        return any(step.tunes for step in self.steps)

    def check(self, network: nn.Module) -> None:
        for step in self.steps:
            step.check(network)

    def check_data(self, task: Task) -> None:
        for step in self.steps:
            step.check_data(task)

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        return {"steps": [step.recover(model, task, progress) for step in self.steps]}

    def recover_compressed(
        self, compressed: Compressed, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        found = [step.recover_compressed(compressed, task, progress) for step in self.steps]
        return {"steps": found}
