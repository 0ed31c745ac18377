"""Levels of methods at a share of the way from no compression to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

from lowrank.factorizations.packing import BITS

# The level at a share of the way, by the word for it, the level at the end and the shorter side of
# the weight, at which a rank begins.
LEVELS: dict[str, Callable[[float, float, int], float]] = {
    "sparsity": lambda share, level, side: share * level,
    "rank": lambda share, level, side: _between(max(side, level), level, share),
    "bits": lambda share, level, side: _between(max(*BITS, level), level, share),
    "energy": lambda share, level, side: _between(1.0, level, share),
    "compression_ratio": lambda share, level, side: level**share,
}
RATIO = "compression_ratio"
# Numbers of something, of which a method that was given a whole number takes no fraction.
COUNTS = ("rank", "bits")


def gentler(method: Any, levels: Iterable[str], share: float, side: int) -> dict[str, Any]:
    """The fields of a method that are levels, at a share of the way to them.

    Args:
        levels: the names of the fields, of which the method may lack some; one that is None, or no
            number, is no level.
        share: in [0, 1].
        side: the shorter side of the weight.
    """
    given: dict[str, Any] = {
        name: value for name in levels if _is_number(value := getattr(method, name, None))
    }
    # It says the size of all; other numbers beside it say only what it is spent on.
    given = {RATIO: given[RATIO]} if RATIO in given else given
    changed = {name: LEVELS[name](share, value, side) for name, value in given.items()}
    return {
        name: round(level) if name in COUNTS and isinstance(given[name], Integral) else float(level)
        for name, level in changed.items()
    }


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _between(start: float, end: float, share: float) -> float:
    return end - (1 - share) * (end - start)
