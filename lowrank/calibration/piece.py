"""Examples that run together, and how their run is told of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrank.calibration.contents import described
from lowrank.calibration.masks import placed
from lowrank.model.batch import Batch

# What a model raises that is given what it does not take.
ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)


class Refused(ValueError):
    """What this package itself says of data while a model runs; `running` makes it a ValueError
    as any other."""


@dataclass(frozen=True)
class Piece:
    """A batch, or examples of one, without padding as far as it could be taken away.

    Attributes:
        batch: the examples; `real` is there where padding was left, and then of every row of
            positions that they have.
        examples: how many there are.
        number: of the batch that they are of, from 0.
        notes: what every layer that sees them must say.
        cut: the masks by which padding was cut off.
    """

    batch: Batch
    examples: int
    number: int = 0
    notes: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()

    def real(self, positions: torch.Size | None) -> tuple[Tensor | None, tuple[str, ...]]:
        """Which of a layer's positions are real, as `placed` has it, or None for all of them; and a
        note if some of these may be padding.

        Args:
            positions: their shape; None where they are none of the model's input.
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
    """Inside, an error of the model is a ValueError that says what it was given."""
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
    """How many examples there are in all."""
    return sum(piece.examples for piece in pieces)
