"""Allocation of any candidates to the layers of a model by a multiple-choice knapsack."""

from __future__ import annotations

from dataclasses import dataclass

from lowrank.allocation.allocation import Problem
from lowrank.allocation.analysis import Option
from lowrank.allocation.budgeted import Budgeted, Knapsack, KnapsackSolution
from lowrank.allocation.losses import OutputDistance, check_runnable
from lowrank.decomposers import Decomposer
from lowrank.numerics.checks import check_integer
from lowrank.numerics.knapsack import choose


@dataclass(frozen=True)
class MixedAllocation(Budgeted):
    """The candidates of least total loss among all choices within the budget.

    A multiple-choice knapsack over candidates of any families. A sum of losses of single layers
    ignores how errors in several layers combine. So, if `rivals` is not 0, the mix is compared with
    the best uniform choices by a run of the whole model on calibration data, and the choice of
    least output distance is taken. The record says which, and how near the mix is to a bound on all
    choices.

    It pays where layers differ in sensitivity, and at sizes between two levels of a single method.
    It does not pay for a model of one large layer.

    Args:
        rivals: number of uniform choices that are compared with the mix.
        trial_examples: of the calibration data, for this comparison.

    Source: mixed precision as a knapsack, Yao et al., ICML 2021 (HAWQ-V3), over any form.
    """

    rivals: int = 3
    trial_examples: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("rivals", self.rivals, least=0)
        check_integer("trial_examples", self.trial_examples, least=1)

    @property
    def family(self) -> str:
        return "mix"

    @property
    def needs_data(self) -> bool:
        return super().needs_data or self.rivals > 0

    def check(self, problem: Problem) -> None:
        super().check(problem)
        if self.rivals:
            check_runnable(problem)

    def solve(self, knapsack: Knapsack) -> KnapsackSolution:
        choice = choose(knapsack.items, knapsack.limit)
        options = knapsack.analysis.options
        pairs = zip(options, choice.picks, strict=True)
        plans = {"mix": {name: options[name][pick] for name, pick in pairs}}
        summary = {"loss": choice.loss, "bound": choice.bound, "solver": choice.solver}
        chosen, distances = "mix", {}
        if self.rivals:
            plans |= self._uniform(knapsack)
            distance = OutputDistance(knapsack.problem, self.trial_examples, batch_size=16)
            distances = {label: distance.of(plan) for label, plan in plans.items()}
            chosen = min(distances, key=lambda label: distances[label])
        return KnapsackSolution(plans[chosen], summary | {"chosen": chosen, "distances": distances})

    def _uniform(self, knapsack: Knapsack) -> dict[str, dict[str, Option]]:
        """The uniform choices within the limit of least total loss; a layer stays dense where the
        candidate does not fit or is not smaller."""
        found = []
        options, losses = knapsack.analysis.options, knapsack.losses
        for candidate in self.candidates:
            picks = {
                name: next((i for i, o in enumerate(of) if pays(o, candidate, of[0])), 0)
                for name, of in options.items()
            }
            plan = {name: options[name][pick] for name, pick in picks.items()}
            if sum(option.cost for option in plan.values()) <= knapsack.limit:
                loss = sum(losses[name][pick] for name, pick in picks.items())
                found.append((loss, repr(candidate), plan))
        found.sort(key=lambda entry: entry[:2])
        return {label: plan for _, label, plan in found[: self.rivals]}


def pays(option: Option, candidate: Decomposer, dense: Option) -> bool:
    """Whether it is the option of a candidate, and costs less than the dense weight."""
    return option.decomposer == candidate and option.cost < dense.cost
