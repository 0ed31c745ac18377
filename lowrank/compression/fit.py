"""The fit of decomposers to the shapes of weights: the nearest possible level, or left as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lowrank.compression.layer_report import NEAREST
from lowrank.decomposers import Decomposer
from lowrank.decomposers.decomposer import Unfit
from lowrank.model.sites import Site, naming


@dataclass
class Fit:
    """The decomposers of a plan as far as the weights can take them.

    If a rule applies to several weights and one of them cannot be compressed as asked, that weight
    takes the nearest possible level, or stays as it is. It is an error if the weight was named
    alone, if no weight of the rule can be compressed, or if the caller is strict.

    Args:
        sites: the weights of the plan.
        rules: by the name of a weight, which of the caller's choices gave it its decomposer.
        alone: the names of weights that the caller named one by one.
        strict: whether every weight must take what was asked for.

    Attributes:
        notes: by the name of a weight, what its report should say.
        left: by the name of a weight that stays as it is, why.
    """

    sites: Sequence[Site]
    rules: Mapping[str, str]
    alone: frozenset[str] = frozenset()
    strict: bool = False
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left: dict[str, ValueError] = field(default_factory=dict)

    def shaped(self, plan: Mapping[str, Decomposer]) -> dict[str, Decomposer]:
        """The decomposers that fit the shapes of the weights, known before any work.

        Raises:
            ValueError: a weight that must take what was asked for cannot, or no weight of a rule.
        """
        fitted = {}
        for site in self.sites:
            try:
                with naming(site):
                    fitted[site.name] = self.at_nearest(site, plan[site.name])
            except ValueError as error:
                self.leave(site, error)
        self.check()
        return fitted

    def at_nearest(self, site: Site, decomposer: Decomposer) -> Decomposer:
        """The decomposer, or where the shape allows only another level, at the nearest.

        Raises:
            Unfit: no level is near, or another may not be taken.
        """
        try:
            site.check_shape(decomposer)
        except Unfit as error:
            return self.instead(site, error)
        return decomposer

    def instead(self, site: Site, error: Unfit) -> Decomposer:
        """The nearest level of a method that a weight cannot have as asked; its note says so.

        Raises:
            Unfit: the same, where no level is near, or another may not be taken; or that level does
                not fit the shape.
        """
        if error.nearest is None or self.must(site):
            raise error
        site.check_shape(error.nearest)
        self.notes[site.name] = (f"{NEAREST}, {error.nearest}: {error}",)
        return error.nearest

    def leave(self, site: Site, error: ValueError) -> None:
        """Let a weight stay as it is.

        Raises:
            ValueError: the same, where it may not.
        """
        if self.must(site):
            raise error
        self.notes.pop(site.name, None)
        self.left[site.name] = error

    def must(self, site: Site) -> bool:
        """Whether a weight must take what was asked for."""
        rule = self.rules[site.name]
        of_rule = [name for name, other in self.rules.items() if other == rule]
        return self.strict or site.name in self.alone or len(of_rule) == 1

    def check(self) -> None:
        """Raise the first error of a rule that no weight could follow."""
        done = {self.rules[s.name] for s in self.sites if s.name not in self.left}
        for name, error in self.left.items():
            if self.rules[name] not in done:
                raise error
