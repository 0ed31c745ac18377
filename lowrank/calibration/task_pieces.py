"""The examples of a task without padding."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowrank.calibration.contents import trainable
from lowrank.calibration.piece import Piece

if TYPE_CHECKING:
    from lowrank.tasks.task import Split, Task


def task_pieces(
    task: Task,
    split: Split,
    batch_size: int,
    shuffle_seed: int | None = None,
    examples: int | None = None,
) -> Iterator[list[Piece]]:
    """The batches (inputs, targets) of a task, each as the pieces in which it runs.

    Where `Task.mask` finds padding in a batch, its examples are those of batches of one, which hold
    no padding, and examples of one shape run together. What is still padded runs alone, and the
    layers whose positions are those of the mask leave padding out themselves.

    Args:
        examples: how many, from the first on; all if not given.

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
        mask = task.mask(inputs)
        if mask is None or bool(mask.all()):
            yield [Piece((inputs, targets), count, number)]
        else:
            own = list(islice(singles, done - taken, done - taken + count))
            taken = done + count
            yield _alike(task, own, number)
        done, left = done + count, left - count
        if not left:
            break


def _alike(task: Task, singles: list[tuple[Tensor, Tensor]], number: int) -> list[Piece]:
    """Examples alone or with others of their shape."""
    whole: list[Piece] = []
    shapes: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for inputs, targets in singles:
        mask = task.mask(inputs)
        if mask is None or bool(mask.all()):
            shapes.setdefault(inputs.shape[1:], []).append((inputs, targets))
        elif bool(mask.any()):
            whole.append(Piece((inputs, targets), 1, number, (mask,)))
    together = []
    for group in shapes.values():
        inputs, targets = (torch.cat(parts) for parts in zip(*group, strict=True))
        together.append(Piece((inputs, targets), len(group), number))
    if not whole and not together:
        raise ValueError(
            f"batch {number} of the task '{task.name}' is all padding by its mask: check what "
            "`Task.mask` returns, True where a position is real"
        )
    return together + whole
