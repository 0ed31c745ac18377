"""A bar on a terminal that shows how much of a checkpoint is compressed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Tick(Protocol):
    """Counts numbers that are done, after the name of what is worked on."""

    def __call__(self, label: str, numbers: int) -> None: ...


@contextmanager
def shown(total: int, done: int) -> Iterator[Tick]:
    """The share that is done and the time left, on stderr if that is a terminal.

    The line is gone at the end. TQDM_DISABLE=1 shows none.

    Args:
        total: numbers of the model.
        done: those of them that are done.
    """
    if not sys.stderr.isatty():
        yield lambda label, numbers: None
        return
    # Imported here, since most programs show no bar.
    from tqdm import tqdm

    with tqdm(
        initial=done, total=total, file=sys.stderr, leave=False, unit="weight", unit_scale=True
    ) as bar:

        def tick(label: str, numbers: int) -> None:
            bar.set_postfix_str(label, refresh=False)
            bar.update(numbers)

        yield tick
