"""Calibration data: the batches on which the inputs of a model's layers are measured."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import xxhash
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lowrank.calibration.arguments import check_arguments, named
from lowrank.calibration.contents import (
    as_batch,
    batches_of,
    check_contents,
    check_finite,
    spelled,
)
from lowrank.calibration.piece import Piece, Refused, examples_of
from lowrank.calibration.statistics import Calibration
from lowrank.calibration.task_pieces import joined, unpadded_batches
from lowrank.calibration.unpadded import unpadded
from lowrank.model.batch import Batch
from lowrank.model.nested import tensors

if TYPE_CHECKING:
    from lowrank.tasks.task import Task


class CalibrationData(ABC):
    """Batches of examples, the same in each pass, and the way in which a model runs them."""

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """All batches, once."""

    @abstractmethod
    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Run the model on a batch."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss over the batch, differentiable.

        Raises:
            ValueError: the data have no targets.
        """

    @abstractmethod
    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """The outputs of a model on a batch, in the form that `difference` compares."""

    @abstractmethod
    def difference(self, outputs: Any, dense: Any, piece: Piece) -> tuple[float, float]:
        """The summed distance of a model to the dense one, and the weight by which the sum is
        divided. The distance on several pieces is the sum of their distances over the sum of their
        weights.

        Args:
            outputs, dense: those of the model and of the dense one; see `outputs`.
        """

    def pieces(
        self, model: nn.Module, examples: int | None = None, alone: bool = False
    ) -> Iterator[Piece]:
        """The pieces in which the model runs the batches, once.

        Args:
            examples: the least number of examples, in whole batches from the first on; all if not
                given.
            alone: whether each example of a batch with padding runs by itself. A model looks up
                what examples have in common, such as the numbers of their positions, once for all
                examples that run together; the statistics would depend on which examples those are.

        Raises:
            ValueError: a batch holds padding alone.
        """
        done = 0
        for number, batch in enumerate(self.batches()):
            if examples is not None and done >= examples:
                break
            own = self.pieces_of(model, batch, number, alone)
            yield from own
            done += examples_of(own)

    def pieces_of(self, model: nn.Module, batch: Batch, number: int, alone: bool) -> list[Piece]:
        """The pieces in which the model runs a batch; by default the whole batch as one piece.

        Args:
            number: of the batch, from 0.
            alone: see `pieces`.
        """
        del model, alone
        return [Piece(batch, len(batch), number)]

    def check(self, model: nn.Module) -> None:
        """Check what can be checked of the data before the model runs; by default nothing.

        Raises:
            ValueError: the data cannot be used.
        """
        del model

    def within(self, model: nn.Module, nbytes: int) -> CalibrationData:
        """The same data in runs whose outputs take at most so many bytes, or one example each;
        by default batches stay as they are.
        """
        del model, nbytes
        return self

    def singly(self) -> CalibrationData:
        """The same examples, one in a run; by default batches stay as they are."""
        return self

    @property
    def kind(self) -> str:
        """The settings that, beside the batches, determine the outputs of a model."""
        return type(self).__qualname__

    def fingerprint(self) -> str:
        """A hash of all numbers in all batches, of their places, and of `kind`."""
        digest = xxhash.xxh3_128(self.kind.encode())
        for batch in self.batches():
            for value in (batch.inputs, batch.targets, batch.real):
                digest.update(f"{spelled(value)}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class TaskData(CalibrationData):
    """The calibration split of a task.

    Args:
        batch_size: examples per run; fewer where a batch would hold padding.
    """

    task: Task
    batch_size: int

    @property
    def kind(self) -> str:
        return f"{super().kind} of {type(self.task).__qualname__}"

    def batches(self) -> Iterator[Batch]:
        return map(Batch.trainable, self.task.split("calibration").batches(self.batch_size))

    def pieces(
        self, model: nn.Module, examples: int | None = None, alone: bool = False
    ) -> Iterator[Piece]:
        split = self.task.split("calibration")
        if examples is not None:
            whole = self.batch_size * math.ceil(examples / self.batch_size)
            examples = min(whole, len(split))
        found = unpadded_batches(self.task, split, self.batch_size, examples=examples)
        return joined(chain.from_iterable(found), 1 if alone else self.batch_size)

    def within(self, model: nn.Module, nbytes: int) -> TaskData:
        one = next(self.task.split("calibration").batches(1))
        each = sum(tensor.nbytes for tensor in tensors(self.outputs(model, one)))
        return replace(self, batch_size=max(1, min(self.batch_size, nbytes // max(1, each))))

    def singly(self) -> TaskData:
        return replace(self, batch_size=1)

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        return self.task.forward(model, batch.fresh())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(self.forward(model, batch), batch.targets)

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        return self.forward(model, batch)

    def difference(self, outputs: Any, dense: Any, piece: Piece) -> tuple[float, float]:
        """The task's distance, for each of its predictions."""
        count = int(self.task.predictions(piece.batch).sum())
        return count * float(self.task.distance(outputs, dense, piece.batch)), count


@dataclass(frozen=True)
class Batches(CalibrationData):
    """Batches that a user gives: each a tensor, a tuple of positional or a mapping of named
    arguments.

    Padding masks, recognised by the names of the model's arguments (`lowrank.calibration.masks`),
    decide in which pieces a batch runs. If the batches hold ``labels`` and the model returns a
    loss, Fisher information is available too; the batches then run whole, and the model's own loss
    and masks must leave padding out.

    Args:
        given: a list, or a loader that can be iterated more than once, whose batches are kept in
            memory.

    Raises:
        ValueError: there is no batch; from `check`, a batch without examples, with text, or with
            numbers that are not finite; from `forward`, arguments that the model does not take.
    """

    given: Sequence[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "given", batches_of(self.given))

    def batches(self) -> Iterator[Batch]:
        return (as_batch(given).trainable() for given in self.given)

    def pieces_of(self, model: nn.Module, batch: Batch, number: int, alone: bool) -> list[Piece]:
        return unpadded(model, batch, number, alone)

    def check(self, model: nn.Module) -> None:
        for number, given in enumerate(self.given):
            check_contents(given, number)
            for piece in unpadded(model, as_batch(given), number, alone=True):
                check_finite(named(model, piece.batch), number)

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        try:
            return batch.fresh().run(model)
        except TypeError:
            check_arguments(model, batch)
            raise  # The arguments fit: the error has another cause.

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = getattr(self.forward(model, batch), "loss", None)
        if loss is None:
            raise Refused(
                "the model returns no loss for these calibration data: give batches as mappings "
                "with `labels`, or a task"
            )
        return loss

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The first floating-point tensor that the model returns and that is no scalar, such as a
        loss.

        Raises:
            ValueError: it returns none.
        """
        returned = self.forward(model, batch)
        # Outputs of `transformers` are mappings, but not every version registers them as pytrees.
        parts = list(returned.values()) if isinstance(returned, Mapping) else tree_leaves(returned)
        for part in parts:
            if isinstance(part, Tensor) and part.is_floating_point() and part.ndim:
                return part
        raise Refused(
            f"the model returns a {type(returned).__name__} without floating-point tensors, so "
            "compressed and dense outputs cannot be compared"
        )

    def difference(self, outputs: Tensor, dense: Tensor, piece: Piece) -> tuple[float, float]:
        """‖y − ŷ‖² and ‖y‖² over all positions but recognised padding."""
        ours, theirs = outputs, dense
        real, _ = piece.real(ours.shape[:2])
        if real is not None:
            kept = real.to(ours.device)
            ours, theirs = ours.flatten(0, 1)[kept], theirs.flatten(0, 1)[kept]
        return float((ours - theirs).square().sum()), float(theirs.square().sum())


def quotient(total: float, weight: float) -> float:
    """total / weight; 0 for 0 / 0, infinite for another total with weight 0."""
    if total == 0:
        return 0.0
    return total / weight if weight else float("inf")


def at_hand(data: Any) -> Any:
    """Data that are the same in each pass: the batches of a loader become a list; a task,
    calibration data, statistics or a list of batches stay as they are.

    Raises:
        ValueError: data that can be iterated only once, or that are no batches.
    """
    # Tasks import the libraries of their data, which a user without a task need not have.
    from lowrank.tasks.task import Task

    if data is None or isinstance(data, CalibrationData | Calibration | Task):
        return data
    return batches_of(data)


def as_data(data: Any, batch_size: int) -> CalibrationData:
    """Calibration data made from a task or a list of batches; calibration data stay as they are.

    Args:
        batch_size: examples per batch of a task; batches that a user gives keep their size.
    """
    if isinstance(data, CalibrationData):
        return data
    from lowrank.tasks.task import Task

    return TaskData(data, batch_size) if isinstance(data, Task) else Batches(data)
