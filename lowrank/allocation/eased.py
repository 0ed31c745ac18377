"""Gentler levels of a method, for compression in steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowrank.allocation.allocation import Allocation, Plan, Problem
from lowrank.decomposers import Decomposer
from lowrank.model.sites import Site
from lowrank.numerics.checks import check_number


@dataclass(frozen=True)
class Eased(Allocation):
    """An allocation whose levels are at a share of the way from no compression to its own.

    Levels are the numbers given as ``sparsity`` (share · level), ``rank`` (from the shorter side of
    the weight down), ``bits`` (from 8 down), ``energy`` (from 1 down), ``compression_ratio`` and a
    budget, as a ratio (level^share), and N of N:M (from M − 1 down). Those of the allocation itself
    count; where it has none, those of the decomposer of each weight and of its parts. A method
    without a level, such as a number of blocks, is the same at every share.

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
        gentler = self.method.eased(self.share, problem)
        plan = gentler.allocate(problem)
        if gentler != self.method or plan.factorizations:
            return plan
        sites = {site.name: site for site in problem.sites}
        chosen = plan.decomposers.items()
        return Plan({name: self._eased(sites[name], own) for name, own in chosen})

    def _eased(self, site: Site, decomposer: Decomposer) -> Decomposer:
        return decomposer.eased(self.share, min(site.matrix(decomposer.kernel_view()).shape))
