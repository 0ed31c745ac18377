"""The steps of a tuning, from the start or from a state that was kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowrank.files.fields import Fields
from lowrank.files.tensor_files import TensorFile
from lowrank.measure.memory import StepMemory
from lowrank.recovery.recovery import Progress
from lowrank.recovery.tuned import Pair, Step, Tuned
from lowrank.tasks.training.optimizers import load_state_tensors, state_bytes, state_tensors
from lowrank.tasks.training.recipe import SCHEDULES
from lowrank.tasks.training.resuming import Checkpoint
from lowrank.tasks.training.state import check_tensors


@dataclass
class TuningState:
    """What changes from step to step.

    Attributes:
        best: the numbers of the model at the least distance so far.
        distances: to the dense model on the held-out examples, before tuning and after each epoch;
            none before the first is measured.
        memory: the most in the first steps.
        epochs, per_epoch: of all, and the steps of each.
        epoch: epochs done.
        step: steps done of the epoch that runs.
        found: what a record says of the tuning, once it is done.
    """

    numbers: Sequence[Tuned]
    optimizer: Optimizer
    best: list[Tensor]
    memory: StepMemory
    epochs: int
    per_epoch: int
    distances: list[float] = field(default_factory=list)
    epoch: int = 0
    step: int = 0
    found: dict[str, Any] | None = None

    @property
    def is_sound(self) -> bool:
        """Whether it goes on: a distance that is not finite ends it at once."""
        return True

    @property
    def done(self) -> int:
        """Steps done."""
        return self.epoch * self.per_epoch + self.step

    def measured(self, distance: float) -> None:
        """Keep the numbers of the model if they are the nearest so far."""
        if not self.distances or distance < min(self.distances):
            self.best = [tuned.stand_in.detach().clone() for tuned in self.numbers]
        self.distances.append(distance)

    def resident(self, pair: Pair) -> list[Tensor]:
        """The tensors that are in memory before a step."""
        models = [t for m in (pair.model, pair.dense) for t in (*m.parameters(), *m.buffers())]
        numbers = [t for tuned in self.numbers for t in (tuned.master, tuned.stand_in)]
        return [*models, *numbers, *self.best, *state_tensors(self.optimizer).values()]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state, by the names that they have in a file."""
        return self._own() | ({} if self.found else state_tensors(self.optimizer))

    def _own(self) -> dict[str, Tensor]:
        kept = {f"best.{number}": tensor for number, tensor in enumerate(self.best)}
        if self.found is not None:
            return kept
        return kept | {f"numbers.{n}": tuned.master for n, tuned in enumerate(self.numbers)}

    def to_json(self) -> dict[str, Any]:
        """The rest of the state."""
        if self.found is not None:
            return {"found": self.found}
        place = {"epoch": self.epoch, "step": self.step}
        return place | {"distances": self.distances, "peak": self.memory.peak}

    def check_file(self, file: TensorFile) -> None:
        """Check, before anything is read, that a file has the tensors of such a state.

        Raises:
            ValueError: it has not.
        """
        own = {f"best.{number}": tensor for number, tensor in enumerate(self.best)}
        if "found" not in file.header.fields("state"):
            own = self._own()
        check_tensors(file, own, self.optimizer)

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor], fields: Fields) -> None:
        """Go on from a state of a file.

        Raises:
            ValueError: it is none.
        """
        if "found" in fields:
            found = fields.fields("found")
            for name in ("steps", "kept_epoch", "distances"):
                _ = found[name]
            self.found = dict(found)
        else:
            epoch = fields.integer("epoch", 0, self.epochs)
            step, peak = fields.integer("step", 0, self.per_epoch), fields.integer("peak", 1)
            self.distances = fields.numbers("distances", epoch + 1)
            self.epoch, self.step, self.memory.peak = epoch, step, peak
            load_state_tensors(self.optimizer, tensors)
            for number, tuned in enumerate(self.numbers):
                tuned.master.copy_(tensors[f"numbers.{number}"])
                tuned.see(tuned.master)
        for number, tensor in enumerate(self.best):
            tensor.copy_(tensors[f"best.{number}"])


class Tuning:
    """Gradient steps of Adam on numbers of a model, toward the outputs of the dense one.

    Args:
        batches: to learn from, and held out.
        rates: of numbers, relative to their size, and of codes.
    """

    def __init__(
        self,
        pair: Pair,
        numbers: Sequence[Tuned],
        batches: tuple[list[Step], list[Step]],
        epochs: int,
        rates: tuple[float, float],
    ) -> None:
        self.pair, self.numbers = pair, numbers
        self.learnt, self.held = batches
        optimizer = torch.optim.Adam([tuned.group(*rates) for tuned in numbers])
        self.rates = [group["lr"] for group in optimizer.param_groups]
        best = [tuned.stand_in.detach().clone() for tuned in numbers]
        memory = StepMemory(torch.device(pair.task.device))
        self.state = TuningState(numbers, optimizer, best, memory, epochs, len(self.learnt))
        self.seconds: list[float] = []

    def run(self, checkpoint: Checkpoint | None, progress: Progress) -> dict[str, Any]:
        """Tune, and leave the numbers of the least distance in the model; what a record says."""
        state = self.state
        if checkpoint is not None:
            checkpoint.resume(state)
        if state.found is None:
            self._descend(checkpoint, progress)
            state.found = self._found()
            if checkpoint is not None and (checkpoint.is_due or checkpoint.is_there):
                checkpoint.keep(state)
        for tuned, numbers in zip(self.numbers, state.best, strict=True):
            tuned.see(numbers)
        return state.found

    def _descend(self, checkpoint: Checkpoint | None, progress: Progress) -> None:
        state, orders = self.state, torch.Generator().manual_seed(self.pair.task.seed)
        if not state.distances:
            state.measured(self.pair.mean_distance(self.held))
        for epoch in range(state.epochs):
            order = torch.randperm(len(self.learnt), generator=orders).tolist()
            if epoch < state.epoch:
                continue
            for index in order[state.step :]:
                started = time.perf_counter()
                with state.memory.following(state.done, self._resident):
                    self._step(self.learnt[index])
                self.seconds.append(time.perf_counter() - started)
                state.step += 1
                if checkpoint is not None and checkpoint.is_due:
                    checkpoint.keep(state)
            state.measured(self.pair.mean_distance(self.held))
            state.epoch, state.step = state.epoch + 1, 0
            progress(state.epoch, state.epochs, state.distances[-1])

    def _resident(self) -> list[Tensor]:
        return self.state.resident(self.pair)

    def _step(self, batch: Step) -> None:
        state = self.state
        now = SCHEDULES["cosine"](state.done / (state.epochs * state.per_epoch))
        for group, rate in zip(state.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * now
        places = [tuned.stand_in for tuned in self.numbers]
        gradients = torch.autograd.grad(self.pair.distance(batch), places, allow_unused=True)
        for tuned, gradient in zip(self.numbers, gradients, strict=True):
            tuned.take(gradient)
        state.optimizer.step()
        for tuned in self.numbers:
            tuned.follow()

    def _found(self) -> dict[str, Any]:
        state = self.state
        kept = state.distances.index(min(state.distances))
        found = {
            "steps": state.epochs * state.per_epoch,
            "kept_epoch": kept,
            "distances": state.distances,
            "optimizer_bytes": state_bytes(state.optimizer),
            "peak_memory_bytes": state.memory.peak,
            "step_s": statistics.median(self.seconds) if self.seconds else None,
        }
        note = {} if kept else {"note": "tuning brought it no nearer to the dense one: not tuned"}
        return found | note
