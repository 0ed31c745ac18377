"""Options of a training beside its recipe: stopping, parts of a batch, precision, rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from lowrank.numerics.checks import check_integer, check_one_of, check_positive
from lowrank.tasks.task import LOSS, Task

AUTOCAST = ("bfloat16", "float16")


@dataclass(frozen=True)
class TrainingOptions:
    """Options of recoveries by training, which the recipe of a dense model does without.

    Args:
        patience: training ends after so many epochs in a row without a better value of the task's
            first metric on the validation split, ≥ 1, and the model is as it was at the best value,
            that before training among them; None trains all epochs. The learning-rate schedule is
            that of all epochs.
        accumulate: the parts in which a batch runs one after the other, so that it takes less
            memory, ≥ 1. The gradient is that of the whole batch up to rounding, for each part
            weighs by its predictions; with BatchNorm the statistics are those of the parts.
        autocast: the dtype in which matrix products run (`torch.autocast`), ``bfloat16`` or
            ``float16``; None for that of the parameters. Parameters, their gradients and the
            optimizer keep their dtype, and losses are of float32. With ``float16`` gradients are
            scaled, and a step whose gradients overflow is left out.
        left_rate: how many times faster the left factors of products learn (LoRA's B), above 0;
            LoRA+ takes 16.

    Raises:
        ValueError: an option outside its range.

    Source: Prechelt 1998 (early stopping); Micikevicius et al., ICLR 2018 (mixed precision, loss
    scaling); Hayou, Ghosh & Yu, ICML 2024, section 4 (LoRA+).
    """

    patience: int | None = None
    accumulate: int = 1
    autocast: Literal["bfloat16", "float16"] | None = None
    left_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.patience is not None:
            check_integer("patience", self.patience, least=1)
        check_integer("accumulate", self.accumulate, least=1)
        if self.autocast is not None:
            check_one_of("autocast", self.autocast, AUTOCAST)
        check_positive("left_rate", self.left_rate)

    def check_task(self, task: Task) -> None:
        """Check that the options suit a task; may read its data.

        Raises:
            ValueError: they do not: early stopping without a validation example or a metric of one
                model, parts of batches whose losses do not add up, or a device without autocast.
        """
        device = torch.device(task.device).type
        if self.autocast is not None and not torch.amp.is_autocast_available(device):
            raise ValueError(
                f"autocast={self.autocast!r}: torch has none on {device}; leave it out"
            )
        metrics = task.judged_by()
        loss = next((metric for metric in metrics if metric.name == LOSS), None)
        if self.accumulate > 1 and loss is not None and loss.average is None:
            raise ValueError(
                f"accumulate={self.accumulate}: the loss of task {task.name!r} is no mean over "
                "examples, so parts of a batch do not add up to it: leave accumulate out"
            )
        if self.patience is None:
            return
        if metrics[0].dense is not None:
            raise ValueError(
                f"patience={self.patience}: task {task.name!r} judges by {metrics[0].name!r}, a "
                "distance to the dense model, which a model alone does not have: leave patience out"
            )
        if not len(task.split("validation")):
            raise ValueError(
                f"patience={self.patience}: the validation split of task {task.name!r} is empty, "
                "so no epoch is the best there: give it examples, or leave patience out"
            )
