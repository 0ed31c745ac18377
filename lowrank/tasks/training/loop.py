"""The loop of a training: epochs and steps, from the start or from a state that was kept."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.measure.memory import StepMemory
from lowrank.model.batch import Batch
from lowrank.model.nested import hashes
from lowrank.numerics.memo import model_fingerprint
from lowrank.tasks.task import Split, Task
from lowrank.tasks.training.bar import TrainingBar
from lowrank.tasks.training.early_stopping import EarlyStopping
from lowrank.tasks.training.optimizers import optimizer_for, state_bytes
from lowrank.tasks.training.options import TrainingOptions
from lowrank.tasks.training.precision import autocast, scaler_for
from lowrank.tasks.training.recipe import SCHEDULES, Recipe
from lowrank.tasks.training.resuming import Checkpoint, next_checkpoint
from lowrank.tasks.training.state import TrainingState, moving

# Called with (epochs done, epochs in all, mean loss) after each epoch.
Progress = Callable[[int, int, float], None]
ADVICE = "lower the learning rate, or check the model before recovery"
# How torch begins its refusal of a BatchNorm in training with one value for each channel.
NORMALISES_ONE = "Expected more than 1 value per channel"
# The loss of a model on a batch.
Loss = Callable[[nn.Module, Batch], Tensor]


class Loop:
    """Gradient descent of one model by one recipe.

    Args:
        part: the epochs, counted from 0.

    Raises:
        ValueError: see `lowrank.tasks.Training.train`.
    """

    def __init__(
        self,
        recipe: Recipe,
        options: TrainingOptions,
        model: nn.Module,
        task: Task,
        loss: Loss,
        part: range,
    ) -> None:
        self.recipe, self.options, self.part = recipe, options, part
        self.model, self.task, self.loss = model, task, loss
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(
                "nothing in this model can be trained: no parameter requires a gradient"
            )
        self.trained = sum(p.numel() for p in parameters)
        optimizer = optimizer_for(recipe, model, parameters, options.left_rate)
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.data = task.split("train")
        if not len(self.data):
            raise ValueError(f"task {task.name!r} has no example to train on")
        options.check_task(task)
        self.per_epoch = math.ceil(len(self.data) / recipe.batch_size)
        self.device, tensors = torch.device(task.device), moving(model)
        stopping = None
        if options.patience is not None:
            stopping = EarlyStopping(model, task, tensors, options.patience)
        scaler = scaler_for(options.autocast, self.device, parameters)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        memory = StepMemory(self.device)
        self.state = TrainingState(
            tensors, optimizer, scaler, stopping, total, memory, part, self.per_epoch, part.start
        )
        self.seconds: list[float] = []

    def run(self, progress: Progress) -> dict[str, Any]:
        """Train; what a record says of it."""
        checkpoint, state = next_checkpoint(self._made_for), self.state
        if checkpoint is not None:
            checkpoint.resume(state)
        if state.found is None:
            with _training(self.model):
                self._descend(progress, checkpoint)
            self._check_end()
            state.found = self._found()
            if checkpoint is not None and (checkpoint.is_due or checkpoint.is_there):
                checkpoint.keep(state)
        return state.found

    def _descend(self, progress: Progress, checkpoint: Checkpoint | None) -> None:
        state, stopping = self.state, self.state.stopping
        orders = torch.Generator().manual_seed(self.task.seed)
        torch.randint(2**62, (state.epoch,), generator=orders)  # Those of the epochs before.
        done = state.epoch * self.per_epoch + state.step
        # Dropout draws from the global generator, whose state is restored for the caller.
        devices = [] if self.device.type == "cpu" else [self.device]
        with (
            torch.random.fork_rng(devices),
            TrainingBar(self.recipe.epochs, self.per_epoch, done) as bar,
        ):
            torch.manual_seed(self.task.seed + self.part.start)
            if stopping is not None and not stopping.values:
                stopping.look()
            while state.epoch < self.part.stop and not (stopping and stopping.is_over):
                order = int(torch.randint(2**62, (), generator=orders))
                for batch in self._batches(order):
                    started = time.perf_counter()
                    with state.memory.following(state.done, self._resident):
                        value = self._step(batch)
                    self.seconds.append(time.perf_counter() - started)
                    # Each example has equal weight, also in a shorter last batch.
                    state.total += value * len(batch)
                    state.step += 1
                    bar.step(value)
                    if checkpoint is not None and checkpoint.is_due:
                        checkpoint.keep(state)
                state.end_epoch(_finite(float(state.total) / len(self.data), state.epoch + 1))
                if stopping is not None:
                    stopping.look()
                progress(state.epoch, self.recipe.epochs, state.losses[-1])
            state.optimizer.zero_grad()  # The memory of gradients is free for what follows.
            if stopping is not None:
                stopping.restore()

    def _batches(self, order: int) -> Iterator[Batch]:
        """The batches of an epoch that are left."""
        batches = iter(self.data.batches(self.recipe.batch_size, order))
        for _ in range(self.state.step):
            next(batches)
        self.state.restore_random()
        return batches

    def _step(self, batch: Batch) -> Tensor:
        """Change the parameters once; the mean loss of the batch."""
        state, steps = self.state, self.recipe.epochs * self.per_epoch
        now = SCHEDULES[self.recipe.schedule]((state.epoch * self.per_epoch + state.step) / steps)
        for group, rate in zip(state.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * now
        state.optimizer.zero_grad()
        values = []
        for share, part in self._parts(batch):
            with autocast(self.options.autocast, self.device):
                with naming_single(part):
                    value = self.loss(self.model, part)
            value = value if share == 1 else share * value
            state.scaler.scale(value).backward()
            values.append(value.detach())
        state.scaler.step(state.optimizer)
        state.scaler.update()
        return values[0] if len(values) == 1 else torch.stack(values).sum()

    def _parts(self, batch: Batch) -> list[tuple[float, Batch]]:
        """The parts in which a batch runs, each with its share of the predictions."""
        if self.options.accumulate == 1:
            return [(1, batch)]
        size = math.ceil(len(batch) / self.options.accumulate)
        parts = [batch.part(slice(at, at + size)) for at in range(0, len(batch), size)]
        counts = [int(self.task.predictions(part).sum()) for part in parts]
        pairs = zip(counts, parts, strict=True)
        return [(n / sum(counts), part) for n, part in pairs if n] or [(1, batch)]

    def _resident(self) -> list[Tensor]:
        return self.state.resident(self.model)

    def _made_for(self) -> dict[str, Any]:
        settings = asdict(self.options) | asdict(self.recipe)
        task = {"name": self.task.name, "seed": self.task.seed}
        task |= known_by(self.data, self.recipe.batch_size, self.task)
        made_for = {"options": settings, "epochs": [self.part.start, self.part.stop], "task": task}
        return made_for | {"model": model_fingerprint(self.model)}

    @torch.no_grad()
    def _check_end(self) -> None:
        """Raise FloatingPointError if the last step has destroyed the trained weights.

        The loss of a step is that before it, so that no loss tells of the last one.
        """
        epoch = self.state.epoch
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not bool(parameter.isfinite().all()):
                raise FloatingPointError(
                    f"{name} became NaN or infinite in epoch {epoch}; {ADVICE}"
                )

    def _found(self) -> dict[str, Any]:
        losses, stopping = self.state.losses, self.state.stopping
        found = {
            "losses": losses,
            "steps": len(losses) * self.per_epoch,
            "trained_params": self.trained,
            "optimizer_bytes": state_bytes(self.state.optimizer),
            "peak_memory_bytes": self.state.memory.peak,
            "step_s": statistics.median(self.seconds) if self.seconds else None,
        }
        return found if stopping is None else found | {"epochs": len(losses)} | stopping.found()


@contextmanager
def naming_single(batch: Batch) -> Iterator[None]:
    """Say what to do where a batch of one example gives a BatchNorm nothing to normalise by."""
    try:
        yield
    except ValueError as error:
        if len(batch) > 1 or NORMALISES_ONE not in str(error):
            raise
        raise ValueError(
            "a batch of the training has a single example, which a BatchNorm cannot normalise "
            f"({error}): take another batch_size, whose last batch of an epoch has more"
        ) from error


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Training mode inside; afterwards every module is in the mode it was in before.

    In a model that is in training mode, a module that is not, such as a BatchNorm whose statistics
    are to be kept, stays so.
    """
    modes = [(module, module.training) for module in model.modules()]
    if not model.training:
        model.train()
    try:
        yield
    finally:
        model.train(modes[0][1])
        for module, training in modes:
            module.training = training


def known_by(split: Split, count: int, task: Task) -> dict[str, Any]:
    """By what a training knows its data again: their number, and hashes of `count` of them.

    Those lie at even distances, the first and the last among them, so that other data, another
    order or another part of the same data are told apart, and one changed example mostly is not:
    reading all of them may take as long as training on them.
    """
    batch = spread_batch(split, count, task)
    return {"examples": len(split), "spread": hashes([batch.inputs, batch.targets])}


def spread_batch(split: Split, count: int, task: Task) -> Batch:
    """So many examples at even distances, without a draw from the generators of the caller."""
    device = torch.device(task.device)
    last, count = len(split) - 1, min(count, len(split))
    rows = torch.arange(count) * last // max(1, count - 1)
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        torch.manual_seed(task.seed)
        return split.batch(rows)


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise FloatingPointError(f"the training loss became {loss} in epoch {epoch}; {ADVICE}")
    return loss
