"""One bad input: what is done with it, and what the error must say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """A thing that somebody could do by mistake.

    Args:
        id: what it is, unique in its module.
        act: does it, given an empty folder.
        says: a regular expression that the text of the ValueError must contain: what was wrong, or
            what is allowed.
    """

    id: str
    act: Callable[[Path], object]
    says: str


def make(of: Callable[..., object], /, *args: Any, **fields: Any) -> Callable[[Path], object]:
    """What makes something with these arguments."""
    return lambda _: of(*args, **fields)
