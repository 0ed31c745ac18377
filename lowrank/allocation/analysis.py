"""The cost and the error of every candidate in every layer, computed once for all budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lowrank.allocation.allocation import Problem
from lowrank.allocation.progress import reported
from lowrank.allocation.resources import RESOURCES, Calls
from lowrank.calibration import Job
from lowrank.decomposers import Decomposer, Uncompressed
from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import KernelView
from lowrank.model.sites import Site, naming
from lowrank.norms import Norm
from lowrank.numerics.knapsack import Items

# The subject of the progress messages.
MADE = "candidates made, by layers"


class Option(NamedTuple):
    """One option for a weight: a candidate with its factorization, cost and error.

    Attributes:
        factorization: of the weight by the decomposer, not to be changed; None where it keeps the
            weight.
        cost: in the whole units of the resource.
        error: ‖W − Ŵ‖² in the norm.
        energy: ‖W‖² in the norm.
    """

    decomposer: Decomposer
    factorization: Factorization | None
    cost: int
    error: float
    energy: float


class Costs(NamedTuple):
    """The costs of the dense model, in the whole units of the resource.

    Attributes:
        resource: a key of `RESOURCES`.
        layers: by the name of the weight.
        rest: everything besides them.
        calls: how the layers run, where that had to be known.
    """

    resource: str
    layers: dict[str, int]
    rest: int
    calls: Calls

    @property
    def total(self) -> int:
        """Of the selected weights together."""
        return sum(self.layers.values())


class Analysis(NamedTuple):
    """All options of all weights.

    Attributes:
        options: by the name of the weight; the first is to keep it.
        refused: (weight, candidate, reason) of what does not fit.
    """

    options: dict[str, list[Option]]
    refused: list[tuple[str, str, str]]

    def items(self, losses: Mapping[str, Sequence[float]]) -> Items:
        """The choice as a knapsack.

        Args:
            losses: of each option, by the name of the weight.
        """
        names = list(self.options)
        return Items(
            names,
            [np.array([o.cost for o in self.options[name]], dtype=np.int64) for name in names],
            [np.array(losses[name], dtype=np.float64) for name in names],
        )


def dense_costs(problem: Problem, resource: str) -> Costs:
    """The costs of the dense model.

    Args:
        resource: a key of `RESOURCES`.

    Raises:
        ValueError: it cannot be known: no example, or a weight that is not run by itself.
    """
    measure, sites = RESOURCES[resource], problem.sites
    calls = measure.calls(problem.model, sites, problem.example)
    layers = {site.name: measure.of_site(site, calls) for site in sites}
    rest = measure.of_model(problem.model, problem.example) - sum(layers.values())
    return Costs(resource, layers, rest, calls)


def analyse(problem: Problem, candidates: Sequence[Decomposer], costs: Costs) -> Analysis:
    """Make every candidate of every weight, and find its cost and its error.

    The norms are those of one-shot calibration even if the problem's are sequential, because
    candidates are made before any choice. A weight that the data do not reach is kept. All
    factorizations stay in memory, so give few candidates for a large model.

    Args:
        costs: of the dense model, in the resource in which those of the options are.

    Raises:
        ValueError: no candidates; a candidate that fits no layer; what the norm raises.
    """
    if not candidates:
        raise ValueError("candidates=[] must name at least one decomposer")
    measure = RESOURCES[costs.resource]
    options = {
        n: [Option(Uncompressed(), None, cost, 0.0, 0.0)] for n, cost in costs.layers.items()
    }
    refused: list[tuple[str, str, str]] = []
    views: dict[KernelView, list[Decomposer]] = {}
    for candidate in candidates:
        views.setdefault(candidate.kernel_view(), []).append(candidate)
    steps = reported(_with_norms(problem, views), len(views) * len(problem.sites), MADE)
    reached = set()
    for site, norm, group, view in steps:
        reached.add(site.name)
        weight = site.matrix(view)
        with naming(site):
            energy = norm.size(weight) ** 2
        for decomposer in group:
            try:
                site.check_shape(decomposer)
                factorization = problem.decompose(site, decomposer, norm)
            except ValueError as error:
                refused.append((site.name, repr(decomposer), str(error)))
                continue
            cost = measure.of(site, factorization, view, costs.calls, costs.layers[site.name])
            error = norm(weight - factorization.to_dense()) ** 2
            options[site.name].append(Option(decomposer, factorization, cost, error, energy))
    _check_used(candidates, refused, len(reached))
    return Analysis(options, refused)


def _with_norms(
    problem: Problem, views: Mapping[KernelView, list[Decomposer]]
) -> Iterator[tuple[Site, Norm, list[Decomposer], KernelView]]:
    """Every weight with each view of it, its norm, and the candidates that see it so."""
    for view, group in views.items():
        seen: dict[str, KernelView] = {site.name: view for site in problem.sites}
        job = Job(problem.model, problem.model, problem.sites, seen, problem.data)
        for site, norm in problem.norm.one_shot().over(job):
            yield site, norm, group, view


def _check_used(
    candidates: Sequence[Decomposer], refused: Sequence[tuple[str, str, str]], sites: int
) -> None:
    for candidate in map(repr, candidates):
        reasons = [f"layer '{name}': {why}" for name, what, why in refused if what == candidate]
        if len(reasons) >= sites:
            raise ValueError(
                f"the candidate {candidate} fits none of the {sites} layers; {reasons[0]}"
            )
