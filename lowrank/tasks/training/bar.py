"""A bar on a terminal that shows how far a training is."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch import Tensor

if TYPE_CHECKING:
    from tqdm import tqdm

# Seconds between two looks at the loss, for which a GPU is waited for.
PAUSE = 0.5


class TrainingBar:
    """The epoch, the steps, the loss and the time left, on stderr if that is a terminal.

    The line is gone when training ends. TQDM_DISABLE=1 shows none.

    Args:
        epochs: of the whole training.
        per_epoch: steps of each.
        done: steps that are done.
    """

    def __init__(self, epochs: int, per_epoch: int, done: int) -> None:
        self.epochs, self.per_epoch, self.done = epochs, per_epoch, done
        self.shown: tqdm | None = None
        self.loss, self.looked = "", -math.inf

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            # Imported here, since most trainings show no bar.
            from tqdm import tqdm

            self.shown = tqdm(
                initial=self.done,
                total=self.epochs * self.per_epoch,
                file=sys.stderr,
                leave=False,
                mininterval=PAUSE / 2,
                unit="step",
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.shown is not None:
            self.shown.close()

    def step(self, loss: Tensor) -> None:
        """Count a step of this loss."""
        self.done += 1
        if self.shown is None:
            return
        if time.monotonic() - self.looked >= PAUSE:
            self.loss, self.looked = f"{float(loss):.4g}", time.monotonic()
        epoch = -(-self.done // self.per_epoch)
        said = f"epoch {epoch}/{self.epochs}, loss {self.loss}"
        self.shown.set_postfix_str(said, refresh=False)
        self.shown.update()
