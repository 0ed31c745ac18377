"""Pieces of a task's batches, without padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lowrank.calibration.piece import Piece, examples_of
from lowrank.model.batch import Batch, together
from lowrank.model.forward import described_value

if TYPE_CHECKING:
    from lowrank.tasks.task import Split, Task


def task_pieces(
    task: Task, split: Split, batch_size: int, shuffle_seed: int | None, examples: int
) -> Iterator[list[Piece]]:
    """The pieces of each batch of a task, without padding.

    Args:
        examples: how many, from the first on.

    Raises:
        ValueError: everything in a batch is padding.
    """
    for pieces in unpadded_batches(task, split, batch_size, shuffle_seed, examples):
        yield list(joined(pieces, batch_size))


def unpadded_batches(
    task: Task,
    split: Split,
    batch_size: int,
    shuffle_seed: int | None = None,
    examples: int | None = None,
) -> Iterator[list[Piece]]:
    """The pieces of each batch of a task: one piece, or, if the batch has padding, one piece for
    each example, which the task gives without padding in batches of one.

    Examples that are padded even alone run with their padding; layers whose positions are those of
    an input leave it out.

    Raises:
        ValueError: everything in a batch is padding.
    """
    left = len(split) if examples is None else examples
    singles = map(Batch.trainable, split.batches(1, shuffle_seed))
    done = taken = 0  # Examples yielded, and examples that `singles` has passed.
    batches = map(Batch.trainable, split.batches(batch_size, shuffle_seed))
    for number, batch in enumerate(batches):
        _check_real(task, batch, number)
        count = min(len(batch), left)
        batch = batch.first(count)
        if not batch.is_padded:
            yield [Piece(batch.whole(), count, number)]
        else:
            own = islice(singles, done - taken, done - taken + count)
            yield _alone(task, own, number)
            taken = done + count
        done, left = done + count, left - count
        if not left:
            break


def _check_real(task: Task, batch: Batch, number: int) -> None:
    """Raise ValueError unless `real` has the positions of the inputs that it is of."""
    inputs: Any = batch.inputs
    for place, real in batch.real.items():
        shape = inputs[place].shape[:2] if isinstance(inputs[place], Tensor) else ()
        if real.shape != shape:
            raise ValueError(
                f"batch {number} of the task '{task.name}': `real` of input {place!r} has shape "
                f"{tuple(real.shape)}; it must be (batch, length) of that input, which is "
                f"{described_value(inputs[place])}"
            )


def joined(pieces: Iterable[Piece], most: int) -> Iterator[Piece]:
    """Pieces in which single examples of equal shapes are joined, up to `most` in each; other
    pieces stay as they are.
    """
    waiting: dict[Any, list[Piece]] = {}
    for piece in pieces:
        if piece.examples > 1 or piece.batch.real:
            yield piece
            continue
        alike = waiting.setdefault(piece.batch.shapes(), [])
        alike.append(piece)
        if len(alike) == most:
            yield _as_one(waiting.pop(piece.batch.shapes()))
    for alike in waiting.values():
        yield _as_one(alike)


def _as_one(pieces: list[Piece]) -> Piece:
    batch = together([piece.batch for piece in pieces])
    return replace(pieces[0], batch=batch, examples=examples_of(pieces))


def _alone(task: Task, singles: Iterable[Batch], number: int) -> list[Piece]:
    """Pieces of one example, without the examples that hold padding alone."""
    pieces = [Piece(batch.whole(), 1, number) for batch in singles if not batch.is_empty]
    if not pieces:
        raise ValueError(
            f"batch {number} of the task '{task.name}' is all padding: check `real` of its "
            "batches, True where a position is real"
        )
    return pieces
