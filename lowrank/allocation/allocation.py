"""The interface of allocations, and the simple ones: uniform, and by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from torch import nn

from lowrank.allocation.values import Values
from lowrank.approximation.levels import LEVELS, gentler
from lowrank.calibration import NormProvider
from lowrank.decomposers import Decomposer, Uncompressed
from lowrank.decomposers.decomposer import check_norms, first_level
from lowrank.factorizations import Factorization
from lowrank.model.forward import Example
from lowrank.model.select import as_name, matches
from lowrank.model.sites import Site
from lowrank.norms import Norm
from lowrank.numerics.checks import check_is


@dataclass(frozen=True)
class Problem:
    """A model, and its selected weights, each of which is to get a decomposer.

    Attributes:
        model: the dense model; not to be changed.
        sites: its selected weights.
        norm: provider of the norms in which they will be approximated.
        data: calibration data of the norms; None if they need none.
        example: the inputs of ONE example; None if not given.
        values: how real values are stored.
    """

    model: nn.Module
    sites: Sequence[Site]
    norm: NormProvider
    data: Any = None
    example: Example | None = None
    values: Values = field(default_factory=Values)

    def decompose(self, site: Site, decomposer: Decomposer, norm: Norm) -> Factorization:
        """The factorization of a weight by a method, in the dtypes in which it is stored.

        The method fits the shape of the weight, as `Site.check_shape` says.
        """
        form = site.decompose(decomposer, norm)
        return form if decomposer == Uncompressed() else self.values.stored(form)


@dataclass(frozen=True)
class Plan:
    """The decomposer of each weight.

    Attributes:
        decomposers: by the name of the weight; a weight without one stays as it is.
        summary: the description of the choice in a record, as JSON; empty for a plain rule.
        factorizations: by the name of the weight, those already made, in the norms of the problem,
            for the choice; they need not be made again and must not be changed.
    """

    decomposers: dict[str, Decomposer]
    summary: dict[str, Any] = field(default_factory=dict)
    factorizations: dict[str, Factorization] = field(default_factory=dict)

    def check(self, sites: Sequence[Site], by: str) -> None:
        """Raise ValueError unless it gives decomposers to selected weights, and to no others.

        Args:
            by: the name of the allocation, for the error.
        """
        names = [site.name for site in sites]
        for name, decomposer in self.decomposers.items():
            if name not in names:
                raise ValueError(
                    f"{by} gives a decomposer to {name!r}, which is none of the selected weights: "
                    f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
                )
            if not isinstance(decomposer, Decomposer):
                raise ValueError(
                    f"{by} gives {name!r} a {type(decomposer).__name__}, and must give a Decomposer"
                )


@dataclass(frozen=True)
class Allocation(ABC):
    """A choice of one decomposer for each weight.

    Attributes:
        norms: the norms in which the decomposers that it chooses may approximate.
        levels: the fields that say how much it compresses; see `eased`.
    """

    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)
    levels: ClassVar[tuple[str, ...]] = tuple(LEVELS)

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        """Raise ValueError unless it can choose decomposers that know all of these norms."""
        check_norms(types, self.norms, by=type(self).__name__)

    @property
    def family(self) -> str:
        """The methods with which it is drawn in figures and tables."""
        return "other"

    @property
    def level(self) -> float | None:
        """The number that is swept; see `Decomposer.level`."""
        return first_level(getattr(self, one.name) for one in fields(self) if one.name != "seed")

    def eased(self, share: float, problem: Problem) -> Allocation:
        """This choice at a share of the way from no compression to its own level, for compression
        in steps; itself where it has none, and the decomposers that it gives have theirs.

        Args:
            share: in [0, 1]; see `Decomposer.eased`.
        """
        del problem
        return replace(self, **gentler(self, self.levels, share, side=0))

    @property
    def needs_data(self) -> bool:
        """Whether the choice itself is made on calibration data, whatever the norm."""
        return False

    def rules(self, sites: Sequence[Site]) -> dict[str, str]:
        """By the name of a weight, which of the caller's choices decides over it."""
        return dict.fromkeys((site.name for site in sites), "")

    def check_shapes(self, problem: Problem) -> None:
        """Raise ValueError for what is out of reach by the shapes of the weights alone.

        Args:
            problem: without data or example, and perhaps without numbers in the weights.
        """
        del problem

    def by_shape(self, problem: Problem) -> Plan | None:
        """The plan, where no number decides over it; None where one does."""
        del problem
        return None

    @abstractmethod
    def allocate(self, problem: Problem) -> Plan:
        """Choose a decomposer for each weight."""


@dataclass(frozen=True)
class Uniform(Allocation):
    """The same decomposer, with the same hyperparameters, for every weight.

    Raises:
        ValueError: it is no decomposer.
    """

    decomposer: Decomposer

    def __post_init__(self) -> None:
        check_is("decomposer", self.decomposer, Decomposer, "TruncatedSVD(rank=8)")

    @property
    def family(self) -> str:
        return self.decomposer.family

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        self.decomposer.check_norms(types)

    def by_shape(self, problem: Problem) -> Plan:
        return self.allocate(problem)

    def allocate(self, problem: Problem) -> Plan:
        return Plan({site.name: self.decomposer for site in problem.sites})


@dataclass(frozen=True)
class ByName(Allocation):
    """Decomposers by glob pattern of the weight's name; the first pattern that matches counts.

    Args:
        decomposers: by pattern; see `as_name`.

    Raises:
        ValueError: no mapping from patterns to decomposers, or a pattern twice; from `compress`, a
            pattern that decides no weight.
    """

    decomposers: Mapping[str, Decomposer]

    def __post_init__(self) -> None:
        if not isinstance(self.decomposers, Mapping):
            raise ValueError(
                f"decomposers={self.decomposers!r:.200} must be a mapping from patterns of layer "
                "names to decomposers, such as {'layer1.*': TruncatedSVD(rank=8)}"
            )
        named = {}
        for key, decomposer in self.decomposers.items():
            pattern = as_name("pattern", key)
            if pattern in named:
                raise ValueError(f"the pattern {pattern!r} is there twice, as a number and as text")
            check_is(f"the decomposer of {pattern!r}", decomposer, Decomposer, "TruncatedSVD(8)")
            named[pattern] = decomposer
        object.__setattr__(self, "decomposers", named)

    @property
    def family(self) -> str:
        return family_of(self.decomposers.values())

    @property
    def level(self) -> float | None:
        """The level that all have; None where they differ."""
        levels = {decomposer.level for decomposer in self.decomposers.values()}
        return levels.pop() if len(levels) == 1 else None

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        for decomposer in self.decomposers.values():
            decomposer.check_norms(types)

    def rules(self, sites: Sequence[Site]) -> dict[str, str]:
        found = {s.name: [p for p in self.decomposers if matches(s.name, p)] for s in sites}
        return {name: patterns[0] for name, patterns in found.items() if patterns}

    def by_shape(self, problem: Problem) -> Plan:
        return self.allocate(problem)

    def allocate(self, problem: Problem) -> Plan:
        rules = self.rules(problem.sites)
        plan = {name: self.decomposers[pattern] for name, pattern in rules.items()}
        idle = [pattern for pattern in self.decomposers if pattern not in rules.values()]
        if idle:
            raise ValueError(
                f"the patterns {idle} decide no layer; the selected layers are "
                f"{[site.name for site in problem.sites]}, and an earlier pattern that matches wins"
            )
        return Plan(plan)


def family_of(decomposers: Iterable[Decomposer]) -> str:
    """The family of several methods: their own if they share one, else that of the mixtures."""
    families = {decomposer.family for decomposer in decomposers}
    return families.pop() if len(families) == 1 else "mix"
