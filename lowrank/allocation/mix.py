"""The best split of a budget over the layers of a model, each taking what pays best there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from lowrank.allocation.allocation import Allocation, Plan, Problem
from lowrank.allocation.analysis import Analysis, Option, analyse
from lowrank.allocation.budget import Budget
from lowrank.allocation.knapsack import Choice, choose
from lowrank.allocation.losses import Loss, Losses, Sensitivity, Trial
from lowrank.allocation.resources import RESOURCES
from lowrank.calibration.data import as_data
from lowrank.calibration.statistics import Calibration, model_fingerprint
from lowrank.decomposers import Decomposer
from lowrank.decomposers.checks import check_integer
from lowrank.memo import MEMO
from lowrank.norms import Norm


@dataclass(frozen=True)
class Mix(Allocation):
    """One candidate for each weight, of least total loss among all choices within the budget.

    A multiple-choice knapsack over candidates of any families; leaving a weight as it is is always
    one of them. Candidates, their costs and their losses are found once and serve every budget. A
    sum of losses of single layers knows nothing of how errors in several layers add up; so, if
    `rivals` is not 0, the mix is set beside the best uniform choices by a run of the whole model
    on the calibration data, and what moves its outputs least is taken. The record says which.

    Pays where layers differ in how much they bear, and at sizes between two levels of a single
    method. It does not for a model of one large layer.

    Args:
        candidates: decomposers, also in nested lists and mappings; see `grid`.
        budget: of the model or of the selected layers; never exceeded.
        loss: how much a candidate counts.
        rivals: how many uniform choices are tried beside the mix.
        trial_examples: of the calibration data, for these trials.

    Raises:
        ValueError: no candidates; from `compress`, a budget below the smallest candidates, a
            candidate that fits no layer, data or an example that is needed and not given.

    Source: mixed precision as a knapsack, Yao et al., ICML 2021 (HAWQ-V3), over any form.
    """

    candidates: Any
    budget: Budget
    loss: Loss = field(default_factory=Sensitivity)
    rivals: int = 3
    trial_examples: int = 64

    def __post_init__(self) -> None:
        check_integer("rivals", self.rivals, least=0)
        check_integer("trial_examples", self.trial_examples, least=1)
        flat = tuple(flattened(self.candidates))
        for candidate in flat:
            if not isinstance(candidate, Decomposer):
                raise ValueError(f"candidates must be decomposers, got {candidate!r}")
        if not flat:
            raise ValueError("candidates=[] must name at least one decomposer")
        object.__setattr__(self, "candidates", tuple(dict.fromkeys(flat)))

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        for candidate in self.candidates:
            candidate.check_norms(types)

    def allocate(self, problem: Problem) -> Plan:
        key = problem_key(problem)
        resource = self.budget.resource
        question = ("analysis", resource, repr(self.candidates), *key)
        analysis: Analysis = MEMO.get(question, lambda: analyse(problem, self.candidates, resource))
        losses: Losses = MEMO.get(
            ("losses", repr(self.loss), *question),
            lambda: self.loss.of(problem, analysis.options),
        )
        dense = sum(options[0].cost for options in analysis.options.values())
        unit = RESOURCES[resource].unit
        limit = self.budget.allowance(problem.sites, dense * unit, analysis.rest * unit) / unit
        items = analysis.items(losses)
        self._check_reach(analysis.rest, dense, items.smallest, limit)
        choice = choose(items, limit)
        taken = {
            name: options[pick]
            for (name, options), pick in zip(analysis.options.items(), choice.picks, strict=True)
        }
        name, distances = "mix", {}
        if self.rivals:
            plans = {"mix": taken} | self._uniform(analysis, losses, limit)
            trial = Trial(problem, self.trial_examples, batch_size=16)
            distances = {label: trial.distance(plan) for label, plan in plans.items()}
            name = min(distances, key=lambda label: distances[label])
            taken = plans[name]
        spent = sum(option.cost for option in taken.values())
        summary = self._summary(analysis, choice, spent, limit)
        summary |= {"chosen": name, "distances": distances}
        return self._plan(problem, taken, summary)

    def _check_reach(self, rest: int, dense: int, smallest: int, limit: float) -> None:
        unit = RESOURCES[self.budget.resource].unit
        if smallest > limit:
            base = 0 if self.budget.is_of_layers else rest
            reach = (dense + base) / (smallest + base)
            raise ValueError(
                f"the budget of {self.budget.describe()} leaves {limit * unit:.10g} to the "
                f"selected layers, and their smallest candidates take {smallest * unit:.10g}: a "
                f"ratio of {reach:.4g} is the most that can be reached. Raise the budget, or give "
                "smaller candidates"
            )
        if dense <= limit:
            raise ValueError(
                f"the budget of {self.budget.describe()} allows the model as it is, so there is "
                "nothing to compress: lower it"
            )

    def _uniform(
        self, analysis: Analysis, losses: Losses, limit: float
    ) -> dict[str, dict[str, Option]]:
        """The single candidates within the limit of least total loss, where they fit."""
        found = []
        for candidate in self.candidates:
            picks = {
                name: next((i for i, o in enumerate(of) if o.decomposer == candidate), 0)
                for name, of in analysis.options.items()
            }
            plan = {name: analysis.options[name][pick] for name, pick in picks.items()}
            if sum(option.cost for option in plan.values()) <= limit:
                loss = sum(losses[name][pick] for name, pick in picks.items())
                found.append((loss, repr(candidate), plan))
        found.sort(key=lambda entry: entry[:2])
        return {label: plan for _, label, plan in found[: self.rivals]}

    def _summary(
        self, analysis: Analysis, choice: Choice, spent: int, limit: float
    ) -> dict[str, Any]:
        unit = RESOURCES[self.budget.resource].unit
        return {
            "budget": self.budget.describe(),
            "resource": self.budget.resource,
            "allowed": limit * unit,
            "spent": spent * unit,
            "unspent": (limit - spent) * unit,
            "loss": choice.loss,
            "bound": choice.bound,
            "solver": choice.solver,
            "measure": repr(self.loss),
            "options": sum(len(options) for options in analysis.options.values()),
            "refused": len(analysis.refused),
        }

    def _plan(self, problem: Problem, taken: Mapping[str, Option], summary: dict[str, Any]) -> Plan:
        decomposers = {n: o.decomposer for n, o in taken.items() if o.decomposer is not None}
        made = {n: o.factorization for n, o in taken.items() if o.factorization is not None}
        is_one_shot = problem.norm == problem.norm.one_shot()
        return Plan(decomposers, summary, made if is_one_shot else {})


def grid(of: Callable[..., Decomposer], over: Mapping[str, Sequence[Any]]) -> list[Decomposer]:
    """Decomposers with all combinations of some hyperparameters.

    Args:
        of: what makes one, called with those as keyword arguments.
        over: by the name of a hyperparameter, its values.
    """
    return [of(**dict(zip(over, values, strict=True))) for values in product(*over.values())]


def flattened(candidates: Any) -> Iterator[Any]:
    """The members of nested lists and of mappings' values; None is left out."""
    if isinstance(candidates, Mapping):
        candidates = list(candidates.values())
    if isinstance(candidates, list | tuple):
        for candidate in candidates:
            yield from flattened(candidate)
    elif candidates is not None:
        yield candidates


def problem_key(problem: Problem) -> tuple[str, ...]:
    """The content of a problem, equal for equal ones."""
    data = problem.data
    if data is None or isinstance(data, Calibration):
        data_key = "" if data is None else repr(data.source)
    else:
        data_key = as_data(data, 16).fingerprint()
    names = " ".join(site.name for site in problem.sites)
    return (model_fingerprint(problem.model), data_key, repr(problem.norm.one_shot()), names)
