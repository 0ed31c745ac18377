"""Gentler levels of a method, for compression in steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from lowrank.allocation.allocation import Allocation, Plan, Problem
from lowrank.allocation.budget import Budget
from lowrank.decomposers import Decomposer
from lowrank.factorizations.packing import BITS
from lowrank.model.sites import Site
from lowrank.numerics.checks import check_number

# The level at a share of the way from no compression, by the word for it, the level at the end and
# the shorter side of the weight.
LEVELS: dict[str, Callable[[float, float, int], float]] = {
    "sparsity": lambda share, level, side: share * level,
    "rank": lambda share, level, side: _between(max(side, level), level, share),
    "bits": lambda share, level, side: _between(max(*BITS, level), level, share),
    "energy": lambda share, level, side: _between(1.0, level, share),
    "compression_ratio": lambda share, level, side: level**share,
    "ratio": lambda share, level, side: level**share,
}


@dataclass(frozen=True)
class Eased(Allocation):
    """An allocation whose levels are at a share of the way from no compression to its own.

    Levels are the numbers that were given as ``sparsity`` (share · level), ``rank`` (from the
    shorter side of the weight down), ``bits`` (from 8 down), ``energy`` (from 1 down),
    ``compression_ratio`` and a budget's ``ratio`` (level^share). Those of the allocation itself
    count; where it has none, those of the decomposer of each weight and of its parts. A method
    without such a level, such as pruning to 2:4, is the same at every share.

    Args:
        method: the allocation at the end.
        share: of the way, in [0, 1].

    Raises:
        ValueError: a share outside its range.
    """

    method: Allocation
    share: float

    def __post_init__(self) -> None:
        check_number("share", self.share, "lie in [0, 1]", lambda x: 0 <= x <= 1)

    def check_norms(self, types: tuple[type, ...]) -> None:
        self.method.check_norms(types)

    @property
    def family(self) -> str:
        return self.method.family

    @property
    def needs_data(self) -> bool:
        return self.method.needs_data

    def rules(self, sites: Sequence[Site]) -> dict[str, str]:
        return self.method.rules(sites)

    def allocate(self, problem: Problem) -> Plan:
        gentler = eased(self.method, self.share, side=0)
        plan = gentler.allocate(problem)
        if gentler != self.method or plan.factorizations:
            return plan
        sides = {site.name: min(site.matrix().shape) for site in problem.sites}
        chosen = plan.decomposers.items()
        return Plan({name: eased(own, self.share, sides[name]) for name, own in chosen})


def eased(method: Any, share: float, side: int) -> Any:
    """A method, or a budget, at a share of its way.

    Args:
        side: the shorter side of the weight.
    """
    changes = {}
    for one in fields(method):
        value = getattr(method, one.name)
        if one.name in LEVELS and _is_level(one, value):
            level = LEVELS[one.name](share, value, side)
            changes[one.name] = round(level) if isinstance(value, Integral) else float(level)
        elif isinstance(value, Budget) or _is_part(method, value):
            changes[one.name] = eased(value, share, side)
        elif isinstance(value, list | tuple) and any(_is_part(method, part) for part in value):
            changes[one.name] = [eased(part, share, side) for part in value]
    return replace(method, **changes)


def _between(start: float, end: float, share: float) -> float:
    return start + share * (end - start)


def _is_level(one: Field[Any], value: object) -> bool:
    """Whether it is a number that was given; one left at its default is no level."""
    return isinstance(value, Real) and not isinstance(value, bool) and value != one.default


def _is_part(method: Any, value: object) -> bool:
    """Whether it is a step or a part of a decomposer, whose weight is known."""
    return isinstance(method, Decomposer) and isinstance(value, Decomposer)
