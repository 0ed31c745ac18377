"""A head that a pretrained model lacks, trained with it on first use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lowrank.numerics.checks import check_is
from lowrank.tasks.heads.targets import Targets
from lowrank.tasks.pretrained import Pretrained, auto_class
from lowrank.tasks.splits import check_text
from lowrank.tasks.task import Task
from lowrank.tasks.training.training import Training
from lowrank.tasks.weights import Trained, code_of


@dataclass(frozen=True)
class TrainedHead:
    """Weights of a head, drawn by the task's seed and then trained with the whole model on its
    train split on first use; they are kept in the cache, as those of `Trained`.

    Args:
        part: the part of the model that its files lack, such as ``qa_outputs`` or ``classifier``.
        recipe: the training.

    Raises:
        ValueError: an option of the wrong kind; from `model`, files that lack more than that.
    """

    part: str
    recipe: Training

    def __post_init__(self) -> None:
        check_text("part", self.part)
        check_is("recipe", self.recipe, Training, "Training(epochs=3, ...)")
        _ = self._weights  # Made here to check it.

    def model(self, source: Pretrained, auto: str, task: Task, targets: Targets) -> nn.Module:
        """The trained model in eval mode on the task's device.

        Args:
            auto: the class of transformers that makes it.
            targets: those of the task, whose code the weights depend on.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            model = source.model(auto_class(auto), unused=self.part)
        wanted = type(targets)
        config = {"part": self.part, "targets": code_of(wanted.loss, wanted.outputs)}
        self._weights.fill(model, task, f"transformers:{auto}", config)
        return model.to(task.device).eval()  # type: ignore[arg-type]

    @property
    def _weights(self) -> Trained:
        return Trained(self.recipe)
