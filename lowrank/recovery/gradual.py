"""Compression in steps: the method compresses a little, the model trains, and so on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from lowrank.compression.report import Compressed
from lowrank.numerics.checks import check_flag, check_integer, check_positive
from lowrank.numerics.memo import MEMO
from lowrank.recovery.by_training import ByTraining, check_no_adapters, check_no_patience
from lowrank.recovery.twin import Twin
from lowrank.tasks import Task
from lowrank.tasks.training.training import Progress, Training, silent

SAME = "at these shares the method has no level but its own: each renewal compresses by it as it is"


@dataclass(frozen=True)
class Gradual(ByTraining):
    """Training in which the method compresses again and again, each time nearer to its level.

    At renewal k of n the weights that training has reached are compressed at the share
    1 − (1 − k/n)^power of the way to the method's level (see `Eased`), the last time at the level
    itself; what the new factorization lets train is trained until the next renewal. With power 3,
    this is the schedule of automated gradual pruning; with power 1 and `restarts`, the alternation
    of pruning and retraining. As weights that are zero have the least magnitude, magnitude pruning
    has nested masks, for each layer and globally.

    Works with every method and every form: the rank falls, or the number of bits. Does not pay for
    codes, which are not trained; `LearningCompression` trains the weights behind the codes. A
    method without such a level is the same at each renewal, which a note in the record says.

    The dense model gets the same training.

    Args:
        epochs: of all training together.
        renewals: how often the method compresses, ≥ 1.
        every: epochs from one renewal to the next, ≥ 1; the first one is before the first epoch,
            and at least one epoch follows the last.
        power: of the schedule, above 0; the larger, the more is compressed early.
        restarts: whether each renewal begins the learning-rate schedule anew. Momenta always begin
            anew, since there are other parameters.

    Raises:
        ValueError: an option outside its range, or more renewals than epochs allow; from
            `recover_compressed`, a model that does not know how it was compressed, has adapters, or
            cannot be trained.
        FloatingPointError: a loss that is NaN or infinite.

    Source: Zhu & Gupta 2017 (To prune, or not to prune), equation 1; Han, Pool, Tran & Dally,
    NeurIPS 2015, section 3.4 (prune and retrain by turns); Kao et al. 2022 (N:M in steps).
    """

    renewals: int = 10
    every: int = 1
    power: float = 3.0
    restarts: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("renewals", self.renewals, least=1)
        check_integer("every", self.every, least=1)
        check_positive("power", self.power)
        check_flag("restarts", self.restarts)
        check_no_patience(self)
        last = (self.renewals - 1) * self.every
        if last >= self.epochs:
            raise ValueError(
                f"renewals={self.renewals} with every={self.every} come after epochs 0 to {last}, "
                f"and epochs={self.epochs} must be more than that: lower one of them, or train "
                "longer"
            )

    @property
    def begins_dense(self) -> bool:
        return True

    def shares(self) -> list[float]:
        """The share of the way to the method's level at each renewal; the last is 1."""
        return [1 - (1 - k / self.renewals) ** self.power for k in range(1, self.renewals + 1)]

    def parts(self) -> list[range]:
        """The epochs that follow each renewal."""
        starts = [k * self.every for k in range(self.renewals)]
        return [range(*ends) for ends in zip(starts, [*starts[1:], self.epochs], strict=True)]

    def check_forms(self, model: nn.Module) -> None:
        super().check_forms(model)
        check_no_adapters(self, model)

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        return self._train(lambda share: model, task, progress)

    def change(
        self, compressed: Compressed, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        self.check_forms(compressed.model)
        again, twin = compressed.must_know_how(), Twin.of(compressed)
        sizes: list[int] = []
        methods = set()

        def renewed(share: float) -> nn.Module:
            if sizes:
                twin.take(compressed)
            with MEMO.passing():  # The weights will never be these again.
                compressed.take(again(twin.model, share))
            sizes.append(sum(layer.bytes for layer in compressed.layers))
            methods.add(tuple(layer.decomposer for layer in compressed.layers))
            return compressed.model

        found = self._train(renewed, task, progress)
        note = {"note": SAME} if len(methods) == 1 < self.renewals else {}
        return found | {"shares": self.shares(), "bytes": sizes} | note

    def _train(
        self, renewed: Callable[[float], nn.Module], task: Task, progress: Progress
    ) -> dict[str, Any]:
        """Train what `renewed` gives for each share."""
        losses: list[float] = []
        steps, peak, last = 0, 0, {}
        for share, part in zip(self.shares(), self.parts(), strict=True):
            model = renewed(share)
            if self.restarts:
                recipe, epochs = self.plain(epochs=len(part)), range(len(part))
            else:
                recipe, epochs = self.plain(), part
            said = _from(part, self, progress)
            last = recipe.train(model, task, progress=said, part=epochs, options=self)
            losses, steps = losses + last["losses"], steps + last["steps"]
            peak = max(peak, last["peak_memory_bytes"])
        return last | {"losses": losses, "steps": steps, "peak_memory_bytes": peak}


def _from(part: range, whole: Training, progress: Progress) -> Progress:
    """Progress that counts the epochs of the whole training."""
    epochs = iter(part)
    return lambda done, total, loss: progress(next(epochs) + 1, whole.epochs, loss)
