"""The examples of a task without padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowrank.calibration.contents import trainable
from lowrank.calibration.piece import Piece, examples_of

if TYPE_CHECKING:
    from lowrank.tasks.task import Split, Task


def task_pieces(
    task: Task, split: Split, batch_size: int, shuffle_seed: int | None, examples: int
) -> Iterator[list[Piece]]:
    """Each batch (inputs, targets) of a task as the pieces in which it runs without padding.

    Args:
        examples: how many, from the first on.

    Raises:
        ValueError: everything in a batch is padding.
    """
    for pieces in unpadded_batches(task, split, batch_size, shuffle_seed, examples):
        yield list(together(pieces, batch_size))


def unpadded_batches(
    task: Task,
    split: Split,
    batch_size: int,
    shuffle_seed: int | None = None,
    examples: int | None = None,
) -> Iterator[list[Piece]]:
    """Each batch of a task as one piece, or where `Task.mask` finds padding in it as pieces of one
    example, which batches of one hold without padding.

    What is still padded runs so, and the layers whose positions are those of the mask leave it out.

    Raises:
        ValueError: everything in a batch is padding.
    """
    left = len(split) if examples is None else examples
    singles = map(trainable, split.batches(1, shuffle_seed))
    done = taken = 0  # Examples that were given, and those that `singles` has passed.
    batches = map(trainable, split.batches(batch_size, shuffle_seed))
    for number, (inputs, targets) in enumerate(batches):
        count = min(len(targets), left)
        inputs, targets = inputs[:count], targets[:count]
        if _is_real(task, inputs):
            yield [Piece((inputs, targets), count, number)]
        else:
            own = islice(singles, done - taken, done - taken + count)
            yield _alone(task, own, number)
            taken = done + count
        done, left = done + count, left - count
        if not left:
            break


def together(pieces: Iterable[Piece], most: int) -> Iterator[Piece]:
    """Examples that came alone in pieces of up to so many of one shape; the others as they are."""
    waiting: dict[torch.Size, list[Piece]] = {}
    for piece in pieces:
        if piece.examples > 1 or piece.streams:
            yield piece
            continue
        shape = piece.batch[0].shape
        alike = waiting.setdefault(shape, [])
        alike.append(piece)
        if len(alike) == most:
            yield _joined(waiting.pop(shape))
    for alike in waiting.values():
        yield _joined(alike)


def _joined(pieces: list[Piece]) -> Piece:
    inputs, targets = (torch.cat(p) for p in zip(*(p.batch for p in pieces), strict=True))
    return replace(pieces[0], batch=(inputs, targets), examples=examples_of(pieces))


def _alone(task: Task, singles: Iterable[tuple[Tensor, Tensor]], number: int) -> list[Piece]:
    """Examples alone, those that are all padding left out."""
    pieces = []
    for batch in singles:
        mask = task.mask(batch[0])
        if mask is None or bool(mask.any()):
            streams = () if mask is None or bool(mask.all()) else (mask,)
            pieces.append(Piece(batch, 1, number, streams))
    if not pieces:
        raise ValueError(
            f"batch {number} of the task '{task.name}' is all padding by its mask: check what "
            "`Task.mask` returns, True where a position is real"
        )
    return pieces


def _is_real(task: Task, inputs: Tensor) -> bool:
    mask = task.mask(inputs)
    return mask is None or bool(mask.all())
