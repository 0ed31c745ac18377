"""The one training loop: fine-tunes what compression left, and trains the dense models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from lowrank.decomposers.checks import check_integer, check_number, check_one_of, check_positive
from lowrank.factorizations import Factorization
from lowrank.recovery.recovery import Progress, Recovery, silent
from lowrank.tasks import Task

# The learning rate as a share of its start, after a share of all steps.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
OPTIMIZERS: dict[str, Callable[[FineTune, list[nn.Parameter]], Optimizer]] = {
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
SCOPES = ("model", "factorizations")
MOMENTUM = 0.9


@dataclass(frozen=True)
class FineTune(Recovery):
    """Gradient descent on the task's train split, on every parameter that requires a gradient.

    A pruned weight stays pruned: a sparse factorization holds survivors only. The order of batches
    and dropout are drawn with the task's seed. Does not pay where little is trainable, such as
    quantized codes; the biases and norms of such a model still are trained.

    Args:
        epochs: passes over the train split, ≥ 1.
        learning_rate: at the start, > 0.
        batch_size: examples per step, ≥ 1; the last batch of an epoch may be shorter.
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum.
        momentum: of ``sgd``, in [0, 1).
        schedule: ``cosine`` (to zero at the end) or ``constant``.
        weight_decay: decoupled in ``adamw``, an L2 penalty in ``sgd``; ≥ 0.
        scope: ``model``, or ``factorizations``: every parameter outside of them, such as biases and
            layers that were not compressed, is frozen and stays so, as in LoRA's training of its
            adapters alone. A model without factorizations, the dense baseline, is trained whole.
        distill: share in [0, 1] of KL(dense ‖ model) in the loss; the rest is the task's own loss.

    Raises:
        ValueError: an option outside its range, or, from `recover`, nothing that can be trained.
        FloatingPointError: from `recover`, a loss that is NaN or infinite.

    Source: Loshchilov & Hutter, ICLR 2017 (cosine) and 2019 (AdamW); Hinton, Vinyals & Dean 2015
    (distillation, here at temperature 1).
    """

    epochs: int
    learning_rate: float
    batch_size: int = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = MOMENTUM
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    distill: float = 0.0
    scope: Literal["model", "factorizations"] = "model"

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, least=1)
        check_positive("learning_rate", self.learning_rate)
        check_integer("batch_size", self.batch_size, least=1)
        check_one_of("optimizer", self.optimizer, OPTIMIZERS)
        check_number("momentum", self.momentum, "lie in [0, 1)", lambda x: 0 <= x < 1)
        check_one_of("schedule", self.schedule, SCHEDULES)
        finite = "be at least 0 and finite"
        check_number("weight_decay", self.weight_decay, finite, lambda x: 0 <= x < math.inf)
        check_number("distill", self.distill, "lie in [0, 1]", lambda x: 0 <= x <= 1)
        check_one_of("scope", self.scope, SCOPES)
        if self.optimizer != "sgd" and self.momentum != MOMENTUM:
            raise ValueError(
                f"momentum={self.momentum} has no effect with optimizer={self.optimizer!r}: leave "
                "it out, or take optimizer='sgd'"
            )

    @property
    def changes_dense(self) -> bool:
        return True

    @property
    def tunes(self) -> bool:
        return True

    def check(self, network: nn.Module) -> None:
        # What requires a gradient is known only once the factorizations are there.
        pass

    @torch.inference_mode(False)
    @torch.enable_grad()
    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        if self.scope == "factorizations":
            freeze_outside_factorizations(model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(
                "nothing in this model can be trained: no parameter requires a gradient"
            )
        dense = task.model() if self.distill else None
        train = task.split("train")
        optimizer = OPTIMIZERS[self.optimizer](self, parameters)
        steps = self.epochs * math.ceil(len(train) / self.batch_size)
        factor = SCHEDULES[self.schedule]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step / steps))
        orders = torch.Generator().manual_seed(task.seed)
        device = torch.device(task.device)
        was_training = model.training
        losses: list[float] = []
        model.train()
        try:
            # Dropout draws from the global generator: the caller's state is given back.
            with torch.random.fork_rng([] if device.type == "cpu" else [device]):
                torch.manual_seed(task.seed)
                for epoch in range(1, self.epochs + 1):
                    order = int(torch.randint(2**62, (), generator=orders))
                    total = torch.zeros((), dtype=torch.float64, device=device)
                    for inputs, targets in train.batches(self.batch_size, order):
                        loss = self._loss(model, dense, task, (inputs, targets))
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                        schedule.step()
                        # The last batch may be shorter: each example counts the same.
                        total += loss.detach() * len(targets)
                    losses.append(_finite(float(total) / len(train), epoch))
                    progress(epoch, self.epochs, losses[-1])
        finally:
            model.train(was_training)
        trained = sum(p.numel() for p in parameters)
        return {"losses": losses, "steps": steps, "trained_params": trained}

    def _loss(
        self, model: nn.Module, dense: nn.Module | None, task: Task, batch: tuple[Tensor, Tensor]
    ) -> Tensor:
        inputs, targets = batch
        outputs = task.forward(model, inputs)
        loss = task.loss(outputs, targets)
        if dense is None:
            return loss
        with torch.no_grad():
            wanted = task.forward(dense, inputs).log_softmax(-1)
        # The mean over predictions: a text has one at each position.
        divergence = F.kl_div(
            outputs.log_softmax(-1).flatten(0, -2),
            wanted.flatten(0, -2),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.distill) * loss + self.distill * divergence


def freeze_outside_factorizations(model: nn.Module) -> None:
    """Freeze what is no part of a factorization, in place; a model that has none stays as it is."""
    factorizations = [module for module in model.modules() if isinstance(module, Factorization)]
    inside = {id(p) for module in factorizations for p in module.parameters()}
    for parameter in model.parameters():
        if inside and id(parameter) not in inside:
            parameter.requires_grad_(False)


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the training loss became {loss} in epoch {epoch}; lower the learning rate, or check "
            "the model before recovery"
        )
    return loss
