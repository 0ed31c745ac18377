"""Progress messages of computations that take minutes, through `logging` at level INFO."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Seconds between two lines.
EVERY = 15.0


def reported(steps: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The steps one by one; every `EVERY` seconds an INFO line says how many are done.

    Args:
        what: such as "candidates of layers".
    """
    last = time.monotonic()
    for done, step in enumerate(steps):
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            logger.info("%s: %d of %d", what, done, total)
        yield step
