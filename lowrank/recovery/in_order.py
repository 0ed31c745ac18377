"""Sequences of recoveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lowrank.compression.report import Compressed
from lowrank.recovery.recovery import Progress, Recovery, silent
from lowrank.tasks import Task
from lowrank.tasks.task import SplitName


@dataclass(frozen=True)
class InOrder(Recovery):
    """Recoveries one after the other, such as a bias correction and then a tuning.

    Args:
        steps: at least one. In a mapping each has a name, by which a command line can change it.
        order: the names of a mapping in the order in which they run, for two configs whose
            mappings differ in their order alone are one point (`lowrank.records.keys.key`).

    Raises:
        ValueError: no steps, something else among them, one after others that begins with the
            dense model (`Recovery.begins_dense`), or an order that does not name each step once.
    """

    steps: Sequence[Recovery]
    order: Sequence[str] | None = None

    def __post_init__(self) -> None:
        given: Any = self.steps
        names = (sorted(given) or None) if isinstance(given, Mapping) else None
        order = None if self.order is None else list(self.order)
        if names != (order and sorted(order)):
            of = f"each of the steps {names} once" if names else "None, for the steps have no names"
            raise ValueError(f"order={self.order!r} must be {of}")
        if order:
            object.__setattr__(self, "steps", tuple(given[name] for name in order))
            object.__setattr__(self, "order", None)
        are_steps = isinstance(self.steps, Sequence) and not isinstance(self.steps, str)
        if not are_steps or not self.steps:
            raise ValueError(f"steps={self.steps!r} must be a list of at least one recovery")
        for step in self.steps:
            if not isinstance(step, Recovery):
                raise ValueError(f"steps hold {step!r}, and must be recoveries, such as Tune()")
        for before, step in enumerate(self.steps):
            if before and step.begins_dense:
                raise ValueError(
                    f"{type(step).__name__} begins with the trained dense model, so what the "
                    f"{before} steps before it do would be lost: put it first"
                )

    @property
    def changes_dense(self) -> bool:
        return any(step.changes_dense for step in self.steps)

    @property
    def tunes(self) -> bool:
        return any(step.tunes for step in self.steps)

    @property
    def changes_forms(self) -> bool:
        return any(step.changes_forms for step in self.steps)

    @property
    def begins_dense(self) -> bool:
        return self.steps[0].begins_dense

    @property
    def learns_from(self) -> SplitName | None:
        # What chooses on validation trains on train, of which calibration is a part.
        used = {step.learns_from for step in self.steps}
        splits: tuple[SplitName, ...] = ("validation", "train", "calibration")
        return next((split for split in splits if split in used), None)

    def check(self, network: nn.Module) -> None:
        for step in self.steps:
            step.check(network)

    def check_data(self, task: Task) -> None:
        for step in self.steps:
            step.check_data(task)

    def check_forms(self, model: nn.Module) -> None:
        for step in self.steps:
            step.check_forms(model)
            if step.changes_forms:
                # The next ones begin with other factorizations, which are not known yet.
                return

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        self.check_forms(model)
        return {"steps": [step.recover(model, task, progress) for step in self.steps]}

    def change(
        self, compressed: Compressed, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        self.check_forms(compressed.model)
        found = [step.change(compressed, task, progress) for step in self.steps]
        return {"steps": found}
