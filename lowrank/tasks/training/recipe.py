"""The recipe of a training by gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from lowrank.numerics.checks import check_integer, check_number, check_one_of, check_positive

Groups = list[dict[str, Any]]

OPTIMIZERS: dict[str, Callable[[Recipe, Groups], Optimizer]] = {
    "adamw": lambda recipe, groups: torch.optim.AdamW(
        groups, recipe.learning_rate, weight_decay=recipe.weight_decay
    ),
    "sgd": lambda recipe, groups: torch.optim.SGD(
        groups,
        recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    ),
}

# The learning rate relative to its start, as a function of the share of steps done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """The settings of a gradient descent; see `lowrank.tasks.Training`."""

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
