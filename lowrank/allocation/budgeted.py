"""The common base of allocations that choose among candidates within a budget."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

from lowrank.allocation.allocation import Allocation, Plan, Problem, family_of
from lowrank.allocation.analysis import Analysis, Costs, Option, analyse, dense_costs
from lowrank.allocation.budget import Budget
from lowrank.allocation.losses import Loss, Losses, Sensitivity
from lowrank.allocation.makers import made_by
from lowrank.allocation.resources import RESOURCES
from lowrank.calibration.data import as_data
from lowrank.calibration.statistics import Calibration
from lowrank.decomposers import Decomposer
from lowrank.model.sites import Site, naming
from lowrank.norms import Norm
from lowrank.numerics.checks import check_is
from lowrank.numerics.knapsack import Items
from lowrank.numerics.memo import MEMO, model_key


class Knapsack(NamedTuple):
    """A multiple-choice knapsack: one option of each weight, together within a limit.

    Attributes:
        items: the options of each weight with their losses.
        limit: of the cost of the weights together, in the resource's whole units.
    """

    problem: Problem
    analysis: Analysis
    losses: Losses
    items: Items
    limit: float


class KnapsackSolution(NamedTuple):
    """One option for each weight, and the description of the choice in a record."""

    taken: dict[str, Option]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Budgeted(Allocation):
    """One candidate for each weight within a budget; keeping it is always one of them.

    Candidates, their costs and their losses are found once and serve every budget.

    Args:
        candidates: decomposers, also in nested lists and mappings; see `grid`.
        budget: of the model or of the selected layers. The choice never exceeds it. In sequential
            calibration the chosen factorizations are made anew, and a method whose size depends on
            the weight (an energy, entropy codes) can then take a little more or less than the
            record says.
        loss: how much a candidate counts.

    Raises:
        ValueError: no candidates; from `compress`, a budget below the smallest candidates, a
            candidate that fits no layer, data or an example that is needed and not given.
    """

    candidates: Any
    budget: Budget
    loss: Loss = field(default_factory=Sensitivity)

    def __post_init__(self) -> None:
        flat = tuple(flattened(self.candidates))
        for candidate in flat:
            if not isinstance(candidate, Decomposer):
                raise ValueError(f"candidates must be decomposers, got {candidate!r}")
        if not flat:
            raise ValueError("candidates=[] must name at least one decomposer")
        object.__setattr__(self, "candidates", tuple(dict.fromkeys(flat)))
        check_is("budget", self.budget, Budget, "Budget(ratio=8)")
        check_is("loss", self.loss, Loss, "Sensitivity()")

    @property
    def family(self) -> str:
        return family_of(self.candidates)

    @property
    def level(self) -> float | None:
        return self.budget.level

    def eased(self, share: float, problem: Problem) -> Allocation:
        budget = self.budget
        if budget.ratio is not None:
            return replace(self, budget=budget.eased(share, budget.ratio))
        unit, costs = RESOURCES[budget.resource].unit, dense_costs(problem, budget.resource)
        times = budget.times(problem.sites, costs.total * unit, costs.rest * unit)
        return replace(self, budget=budget.eased(share, times))

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        for candidate in self.candidates:
            candidate.check_norms(types)

    @property
    def needs_data(self) -> bool:
        return self.loss.needs_data

    def check_shapes(self, problem: Problem) -> None:
        self._check_candidates(problem)
        if RESOURCES[self.budget.resource].is_of_shapes:
            self._limit(problem, dense_costs(problem, self.budget.resource))

    def _check_candidates(self, problem: Problem) -> None:
        """Raise ValueError for a candidate whose shape fits no layer."""
        for candidate in self.candidates:
            errors = []
            for site in problem.sites:
                try:
                    with naming(site):
                        site.check_shape(candidate)
                except ValueError as error:
                    errors.append(error)
            if len(errors) == len(problem.sites):
                raise ValueError(
                    f"the candidate {candidate} fits none of the {len(errors)} layers; {errors[0]}"
                )

    def check(self, problem: Problem) -> None:
        """Raise ValueError if something is missing that the choice needs; takes no time."""
        self.loss.check(problem)

    @abstractmethod
    def solve(self, knapsack: Knapsack) -> KnapsackSolution:
        """One option of each weight; the limit can be met, and is not met by the dense weights."""

    def allocate(self, problem: Problem) -> Plan:
        self.check(problem)
        self._check_candidates(problem)
        resource = self.budget.resource
        measure = RESOURCES[resource]
        owner = problem_key(problem)
        what = (resource, *measure.conditions(problem.example))
        costs: Costs = kept(("costs", *what), owner, lambda: dense_costs(problem, resource))
        limit = self._limit(problem, costs)
        # The key has the costs: some are measured, and the memo can forget them sooner.
        key = ("analysis", repr(self.candidates), repr(costs.layers), costs.rest, *what)
        analysis: Analysis = kept(key, owner, lambda: analyse(problem, self.candidates, costs))
        key = ("losses", repr(self.loss), *key)
        losses: Losses = kept(key, owner, lambda: self.loss.of(problem, analysis.options))
        items = analysis.items(losses)
        self._check_reach(problem.sites, costs, items.smallest, limit)
        taken, summary = self.solve(Knapsack(problem, analysis, losses, items, limit))
        spent = sum(option.cost for option in taken.values())
        said = {
            "budget": self.budget.describe(),
            "resource": resource,
            "allowed": limit * measure.unit,
            "spent": spent * measure.unit,
            "unspent": (limit - spent) * measure.unit,
            "measure": repr(self.loss),
            "options": sum(len(options) for options in analysis.options.values()),
            "refused": len(analysis.refused),
        }
        decomposers = {n: o.decomposer for n, o in taken.items()}
        made = {n: o.factorization for n, o in taken.items() if o.factorization is not None}
        is_one_shot = problem.norm == problem.norm.one_shot()
        return Plan(decomposers, said | summary, made if is_one_shot else {})

    def _limit(self, problem: Problem, costs: Costs) -> float:
        """The limit for the selected layers together, in whole units."""
        unit = RESOURCES[self.budget.resource].unit
        limit = self.budget.allowance(problem.sites, costs.total * unit, costs.rest * unit) / unit
        # A rounding error must not make a ratio of 1 unreachable.
        if costs.total <= limit * (1 + 1e-9):
            raise ValueError(
                f"the budget of {self.budget.describe()} allows the model as it is, so there is "
                "nothing to compress: give a smaller budget"
            )
        return limit

    def _check_reach(
        self, sites: Sequence[Site], costs: Costs, smallest: int, limit: float
    ) -> None:
        if smallest <= limit:
            return
        resource = RESOURCES[self.budget.resource]
        sizes = (size * resource.unit for size in (costs.total, costs.rest, smallest))
        reach = f"the smallest budget that can be met is {self.budget.just(sites, *sizes)}"
        if smallest >= costs.total:
            reach = "none takes less than the layer that it stands for"
        left, least = resource.amount(limit), resource.amount(smallest)
        raise ValueError(
            f"the budget of {self.budget.describe()} leaves {left} to the selected layers, whose "
            f"smallest candidates take {least}: {reach}. Give a larger budget or smaller candidates"
        )


def grid(of: Callable[..., Decomposer], over: Mapping[str, Iterable[Any]]) -> list[Decomposer]:
    """Decomposers with all combinations of some hyperparameters.

    Args:
        of: what makes one, called with those as keyword arguments.
        over: by the name of a hyperparameter, its values.

    Raises:
        ValueError: `of` makes no decomposer with those names, or what it makes refuses a value;
            no names, or one without values.
    """
    if not isinstance(over, Mapping) or not over:
        raise ValueError(
            f"over={over!r:.200} must be a mapping from names of hyperparameters to lists of their "
            "values, such as {'bits': [2, 3, 4]}"
        )
    values = [values_of(name, given) for name, given in over.items()]
    return [made_by(of, **dict(zip(over, chosen, strict=True))) for chosen in product(*values)]


def values_of(name: str, given: object) -> list[Any]:
    """The values of a hyperparameter.

    Raises:
        ValueError: it is no list of them, or an empty one.
    """
    # Only iteration shows whether an array can be iterated.
    try:
        values = [] if isinstance(given, str | bytes | Mapping) else list(given)  # type: ignore[call-overload]
    except TypeError:
        values = []
    if not isinstance(name, str) or not values:
        raise ValueError(
            f"{name!r:.200}: {given!r:.200} must be a hyperparameter's name and a list of at least "
            "one value, such as {'bits': [2, 3, 4]}"
        )
    return values


def flattened(candidates: Any) -> Iterator[Any]:
    """The members of nested lists and of mappings' values; None is left out."""
    if isinstance(candidates, Mapping):
        candidates = list(candidates.values())
    if isinstance(candidates, list | tuple):
        for candidate in candidates:
            yield from flattened(candidate)
    elif candidates is not None:
        yield candidates


def problem_key(problem: Problem) -> tuple[Any, ...] | None:
    """The part of a key of `Memo` for a problem, equal for equal ones; None if its model is not
    `lowrank.numerics.memo.unchanging`.
    """
    owner = model_key(problem.model)
    if owner is None:
        return None
    data = problem.data
    if data is None or isinstance(data, Calibration):
        data_key = "" if data is None else repr(data.source)
    else:
        data_key = as_data(data, 16).fingerprint()
    names = " ".join(site.name for site in problem.sites)
    how = (repr(problem.norm.one_shot()), repr(problem.values))
    return (*owner, data_key, *how, names)


def kept(what: tuple[Any, ...], owner: tuple[Any, ...] | None, compute: Callable[[], Any]) -> Any:
    """A result of a problem, from the memo if that may be; `owner` is its `problem_key`."""
    return MEMO.get(None if owner is None else (*what, *owner), compute)
