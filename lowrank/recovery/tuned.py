"""Tuned numbers, and the pair of models whose distance a tuning minimises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.calibration.piece import Piece
from lowrank.factorizations import Tunable
from lowrank.model.batch import Batch
from lowrank.model.nested import tensors
from lowrank.recovery.toward_dense import toward_dense
from lowrank.tasks import Task

# The least size to which the steps of a tensor are relative; without it biases that start at 0
# would never move.
LEAST_SIZE = 1e-3

# The pieces that run in one step.
Step = list[Piece]


@dataclass(frozen=True)
class Pair:
    """A model and the dense model that is its target."""

    model: nn.Module
    dense: nn.Module
    task: Task

    def distance(self, batch: Step) -> Tensor:
        """The task's distance on a batch, the mean over its predictions; differentiable.

        Raises:
            FloatingPointError: it is NaN or infinite.
        """
        total = self.predictions(batch)
        parts = [self._of(p) * (self.predictions([p]) / total) for p in batch]
        distance = torch.stack(parts).sum()
        if not bool(distance.isfinite()):
            raise FloatingPointError(
                f"the distance to the dense model became {float(distance)}; lower the learning "
                "rate, or check the model before recovery"
            )
        return distance

    def _of(self, piece: Piece) -> Tensor:
        distance, _ = toward_dense(self.task, self.model, self.dense, piece.batch)
        return distance

    def predictions(self, batch: Step) -> int:
        """How many predictions the distance on a batch is a mean of."""
        return sum(int(self.task.predictions(piece.batch).sum()) for piece in batch)

    @torch.no_grad()
    def mean_distance(self, batches: Sequence[Step]) -> float:
        """The mean distance over all predictions of the batches."""
        counts = [self.predictions(batch) for batch in batches]
        distances = [float(self.distance(batch)) for batch in batches]
        return sum(d * n for d, n in zip(distances, counts, strict=True)) / sum(counts)

    @torch.no_grad()
    def is_equal(self, batch: Batch) -> bool:
        """Whether the outputs of both models are equal, bit for bit."""
        models = self.model, self.dense
        outputs = (tensors(self.task.forward(model, batch)) for model in models)
        return all(torch.equal(ours, theirs) for ours, theirs in zip(*outputs, strict=True))


class Tuned:
    """Numbers that are tuned in float32 or better; the model holds them in their stored precision.

    Gradients are taken at the rounded numbers and applied to the unrounded ones, so a code moves to
    the next level after enough gradients of one sign.

    Args:
        tunable: the numbers.
        place: the module and the name of their buffer, which a stand-in of higher precision
            replaces until `settle`; None for a parameter, which is changed itself.
        parameter: the parameter, if the numbers are one.
    """

    def __init__(
        self,
        tunable: Tunable,
        place: tuple[nn.Module, str] | None = None,
        parameter: nn.Parameter | None = None,
    ) -> None:
        self.tunable = tunable
        self.place = place
        self.master = tunable.numbers.detach().clone()
        # Gradients in a buffer's 16 bits would be too coarse.
        self.stand_in = self.master.clone().requires_grad_() if parameter is None else parameter
        if place is not None:
            module, name = place
            self.buffer = module.get_buffer(name)
            setattr(module, name, self.stand_in)

    def group(self, learning_rate: float, code_rate: float) -> dict[str, Any]:
        """The optimizer's settings for the numbers."""
        if self.tunable.part == "codes":
            return {"params": [self.master], "lr": code_rate}
        size = float(self.master.square().mean().sqrt()) if self.master.numel() else 0.0
        return {"params": [self.master], "lr": learning_rate * max(size, LEAST_SIZE)}

    def take(self, gradient: Tensor | None) -> None:
        """Give the optimizer a gradient; None if the numbers were not used."""
        self.master.grad = None if gradient is None else gradient.to(self.master.dtype)

    @torch.no_grad()
    def see(self, numbers: Tensor) -> None:
        """Put these numbers into the model, in their stored precision."""
        self.stand_in.copy_(self.tunable.rounded(numbers))

    def follow(self) -> None:
        """Put the numbers that the optimizer changed into the model."""
        self.master.clamp_(*self.tunable.limits)
        self.see(self.master)

    @torch.no_grad()
    def settle(self) -> None:
        """Copy the model's numbers into the buffer, and put the buffer back into the model."""
        if self.place is not None:
            self.buffer.copy_(self.tunable.stored(self.stand_in.detach()))
            setattr(*self.place, self.buffer)
