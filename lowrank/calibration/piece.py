"""Pieces of a batch: examples that run together, and the errors of their run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrank.calibration.contents import described
from lowrank.calibration.masks import placed
from lowrank.model.batch import Batch

# The errors that a model raises for inputs that it does not take.
ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)


class Refused(ValueError):
    """A fault of the data that this package finds while a model runs; `running` turns it into a
    ValueError.
    """


@dataclass(frozen=True)
class Piece:
    """A batch, or some of its examples, with padding removed where that is possible.

    Attributes:
        batch: the examples. If padding is left, its `real` covers every input that has positions.
        examples: their number.
        number: the number of their batch, from 0.
        notes: notes for every layer that runs on them.
        cut: the masks that marked the padding removed.
    """

    batch: Batch
    examples: int
    number: int = 0
    notes: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()

    def real(self, positions: torch.Size | None) -> tuple[Tensor | None, tuple[str, ...]]:
        """The real positions of a layer's input (see `placed`), or None for all, and a note if
        padding may be among them.

        Args:
            positions: the shape of the layer's positions; None if they are not those of the model's
                input.
        """
        if not self.batch.real:
            return None, ()
        found = None if positions is None else placed(positions, list(self.batch.real.values()))
        return found, (PADDING_COUNTS,) if found is None else ()


PADDING_COUNTS = (
    "padding that could not be cut off counts, because its positions are not those of the mask"
)


@contextmanager
def running(piece: Piece, model: nn.Module) -> Iterator[None]:
    """Inside, turn errors of the model into a ValueError that describes its inputs."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Refused as error:
        raise ValueError(*error.args) from None
    except ERRORS as error:
        inputs = piece.batch.inputs
        inputs = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
        reason = str(error).strip().splitlines() or [""]
        cut = f", less the padding by {' and '.join(piece.cut)}" if piece.cut else ""
        raise ValueError(
            f"{type(model).__name__} cannot run calibration batch {piece.number} "
            f"({described(inputs)}{cut}): {type(error).__name__}: {reason[0]}. A batch holds "
            "examples along the first axis of its tensors (torch.stack of single ones), of the "
            "sizes, the dtype and the device that the model takes"
        ) from error


def examples_of(pieces: Sequence[Piece]) -> int:
    """The number of examples in all pieces."""
    return sum(piece.examples for piece in pieces)
