"""The training loop, for dense and for compressed models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowrank.model.batch import Batch
from lowrank.numerics.checks import check_integer, check_number, check_one_of, check_positive
from lowrank.tasks.task import Task

# Called with (epochs done, epochs in all, mean loss) after each epoch.
Progress = Callable[[int, int, float], None]
# The loss of a model on a batch.
Loss = Callable[[nn.Module, Batch], Tensor]

# The learning rate relative to its start, as a function of the share of steps done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
OPTIMIZERS: dict[str, Callable[[Training, list[nn.Parameter]], Optimizer]] = {
    "adamw": lambda recipe, parameters: torch.optim.AdamW(
        parameters, recipe.learning_rate, weight_decay=recipe.weight_decay
    ),
    "sgd": lambda recipe, parameters: torch.optim.SGD(
        parameters,
        recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    ),
}
MOMENTUM = 0.9


def silent(done: int, total: int, loss: float) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Training:
    """Gradient descent on the train split of a task.

    Args:
        epochs: passes over the train split, ≥ 1.
        learning_rate: at the start, > 0.
        batch_size: examples per step, ≥ 1; the last batch of an epoch may be shorter.
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum.
        momentum: of ``sgd``, in [0, 1).
        schedule: ``cosine`` (to zero at the end) or ``constant``.
        weight_decay: decoupled in ``adamw``, an L2 penalty in ``sgd``; ≥ 0.

    Raises:
        ValueError: an option outside its range.

    Source: Loshchilov & Hutter, ICLR 2017 (cosine) and 2019 (AdamW).
    """

    epochs: int
    learning_rate: float
    batch_size: int = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = MOMENTUM
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, least=1)
        check_positive("learning_rate", self.learning_rate)
        check_integer("batch_size", self.batch_size, least=1)
        check_one_of("optimizer", self.optimizer, OPTIMIZERS)
        check_number("momentum", self.momentum, "lie in [0, 1)", lambda x: 0 <= x < 1)
        check_one_of("schedule", self.schedule, SCHEDULES)
        finite = "be at least 0 and finite"
        check_number("weight_decay", self.weight_decay, finite, lambda x: 0 <= x < math.inf)
        if self.optimizer != "sgd" and self.momentum != MOMENTUM:
            raise ValueError(
                f"momentum={self.momentum} has no effect with optimizer={self.optimizer!r}: leave "
                "it out, or take optimizer='sgd'"
            )

    def plain(self, **changes: Any) -> Training:
        """This training with other options, and without what a subclass adds."""
        own = {one.name: getattr(self, one.name) for one in fields(Training)}
        return Training(**(own | changes))

    @torch.inference_mode(False)
    @torch.enable_grad()
    def train(
        self,
        model: nn.Module,
        task: Task,
        loss: Loss | None = None,
        progress: Progress = silent,
        part: range | None = None,
    ) -> dict[str, Any]:
        """Train every parameter of `model` that requires a gradient, in place.

        The task's seed draws the order of batches and dropout. The model keeps its mode, training
        or eval.

        Args:
            loss: the loss of a batch; the task's if not given.
            part: the epochs of this call, counted from 0, of a training in several calls: the
                learning rate and the order of batches go on from call to call, while momenta begin
                anew. All epochs if not given.

        Returns:
            "losses" (the mean of each epoch), "steps" and "trained_params" (their numbers).

        Raises:
            ValueError: no parameter requires a gradient, one of float16 is to be trained by AdamW,
                or the task has no train examples.
            FloatingPointError: a loss that is NaN or infinite.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(
                "nothing in this model can be trained: no parameter requires a gradient"
            )
        self._check_dtypes(parameters)
        train, part = task.split("train"), part or range(self.epochs)
        if not len(train):
            raise ValueError(f"task {task.name!r} has no example to train on")
        optimizer = OPTIMIZERS[self.optimizer](self, parameters)
        per_epoch = math.ceil(len(train) / self.batch_size)
        steps, before = self.epochs * per_epoch, part.start * per_epoch
        factor = SCHEDULES[self.schedule]
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: factor((before + step) / steps)
        )
        orders = torch.Generator().manual_seed(task.seed)
        torch.randint(2**62, (part.start,), generator=orders)  # Those of the epochs before.
        device = torch.device(task.device)
        was_training = model.training
        losses: list[float] = []
        model.train()
        try:
            # Dropout draws from the global generator, whose state is restored for the caller.
            with torch.random.fork_rng([] if device.type == "cpu" else [device]):
                torch.manual_seed(task.seed + part.start)
                for epoch in range(part.start + 1, part.stop + 1):
                    order = int(torch.randint(2**62, (), generator=orders))
                    total = torch.zeros((), dtype=torch.float64, device=device)
                    for batch in train.batches(self.batch_size, order):
                        value = (loss or task_loss(task))(model, batch)
                        optimizer.zero_grad()
                        value.backward()
                        optimizer.step()
                        schedule.step()
                        # Each example has equal weight, also in a shorter last batch.
                        total += value.detach() * len(batch)
                    losses.append(_finite(float(total) / len(train), epoch))
                    progress(epoch, self.epochs, losses[-1])
        finally:
            model.train(was_training)
        trained = sum(p.numel() for p in parameters)
        steps = len(part) * per_epoch
        return {"losses": losses, "steps": steps, "trained_params": trained}

    def _check_dtypes(self, parameters: Sequence[nn.Parameter]) -> None:
        """Raise ValueError for what the optimizer cannot train in the dtype that it has."""
        if self.optimizer == "adamw" and any(p.dtype == torch.float16 for p in parameters):
            # Squares of gradients below 2e-4, and the 1e-8 beside their root, are 0 in float16.
            raise ValueError(
                "AdamW divides 0 by 0 in float16: take a model of bfloat16 or float32, or "
                "optimizer='sgd'"
            )


def task_loss(task: Task) -> Loss:
    """The loss of a task, as a function of a model and a batch."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return task.loss(task.forward(model, batch), batch.targets)

    return loss


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the training loss became {loss} in epoch {epoch}; lower the learning rate, or check "
            "the model before recovery"
        )
    return loss
