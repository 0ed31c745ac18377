"""Multiple-choice knapsack: an option for each item, of least loss within a total cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# HiGHS solves problems up to this size in seconds; of larger ones, the greedy choice is within a
# thousandth of the optimum.
EXACT_OPTIONS = 20_000
SECONDS = 20.0
OUT_OF_TIME = 1  # HiGHS' status, in scipy's numbers.
# An answer this near to the bound is called the optimum.
RELATIVE_GAP = 1e-6


@dataclass(frozen=True)
class Items:
    """The options of each item, every one with a cost and a loss.

    Args:
        names: of the items.
        costs: of each item's options, whole numbers, at least 0.
        losses: likewise, real numbers, at least 0.

    Raises:
        ValueError: no items, an item without options, a cost or a loss that is negative, NaN or
            infinite; the text names the item.
    """

    names: Sequence[str]
    costs: Sequence[NDArray[np.int64]]
    losses: Sequence[NDArray[np.float64]]

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("there is nothing to choose from: no layer has a candidate")
        for name, costs, losses in zip(self.names, self.costs, self.losses, strict=True):
            if not len(costs) == len(losses) > 0:
                raise ValueError(f"layer '{name}' has {len(costs)} costs, {len(losses)} losses")
            for what, values in (("cost", costs), ("loss", losses)):
                bad = values[~(np.isfinite(values) & (values >= 0))]
                if len(bad):
                    raise ValueError(
                        f"layer '{name}': a candidate's {what} is {bad[0]}; it must be finite and "
                        "at least 0"
                    )

    @property
    def smallest(self) -> int:
        """The cost of the cheapest options together."""
        return sum(int(costs.min()) for costs in self.costs)


@dataclass(frozen=True)
class Choice:
    """Options within a limit.

    Attributes:
        picks: the option of each item.
        cost, loss: of all together.
        bound: no choice within the limit has a smaller loss.
        solver: ``exact`` (branch and bound), ``stopped`` (the same, out of time: another run may
            choose otherwise) or ``greedy`` (convex hulls).
    """

    picks: list[int]
    cost: int
    loss: float
    bound: float
    solver: str


def choose(items: Items, limit: float, exact_options: int = EXACT_OPTIONS) -> Choice:
    """The options of least total loss whose total cost is at most `limit`.

    Exactly by mixed-integer programming where there are at most `exact_options` options that no
    other option of their item beats in both cost and loss; else, or where that takes longer than
    20 s, by the better of what it found and of a greedy walk along the items' convex hulls, which
    falls short by less than the largest step.

    Raises:
        ValueError: the cheapest options together cost more than `limit`.

    Source: Kellerer, Pferschy & Pisinger, Knapsack Problems, 2004, ch. 11 (multiple choice);
    branch and bound by HiGHS (Huangfu & Hall 2018).
    """
    if items.smallest > limit:
        raise ValueError(
            f"the limit {limit:.10g} is out of reach: the smallest options of all layers together "
            f"cost {items.smallest}"
        )
    kept = [undominated(*pair) for pair in zip(items.costs, items.losses, strict=True)]
    greedy = _greedy(items, kept, limit)
    if sum(map(len, kept)) > exact_options or _is_optimal(greedy):
        return greedy
    return _exact(items, kept, limit, greedy)


def undominated(costs: NDArray[np.int64], losses: NDArray[np.float64]) -> NDArray[np.intp]:
    """Options that none beats in both, by rising cost; of equal ones the first."""
    order = np.lexsort((losses, costs))
    least = np.minimum.accumulate(np.concatenate([[np.inf], losses[order][:-1]]))
    return order[losses[order] < least]


def _is_optimal(choice: Choice) -> bool:
    return choice.loss - choice.bound <= RELATIVE_GAP * max(choice.loss, 1e-300)


def _hull(costs: NDArray[np.int64], losses: NDArray[np.float64]) -> list[int]:
    """Of options by rising cost and falling loss, those on the lower convex hull."""
    hull: list[int] = []
    for index in range(len(costs)):
        while len(hull) > 1:
            a, b = hull[-2:]
            # Cross-multiplied: whether b lies above the line from a to the new one.
            rise = (losses[a] - losses[b]) * float(costs[index] - costs[a])
            if rise > (losses[a] - losses[index]) * float(costs[b] - costs[a]):
                break
            hull.pop()
        hull.append(index)
    return hull


def _greedy(items: Items, kept: list[NDArray[np.intp]], limit: float) -> Choice:
    """Steps along the hulls by loss saved per cost, then all other exchanges that fit.

    The first step that does not fit, taken in part, gives the optimum of the linear relaxation and
    so the bound.
    """
    picks = [int(options[0]) for options in kept]
    steps = []
    for item, options in enumerate(kept):
        costs, losses = items.costs[item][options], items.losses[item][options]
        hull = _hull(costs, losses)
        for a, b in zip(hull, hull[1:], strict=False):
            gain, price = float(losses[a] - losses[b]), int(costs[b] - costs[a])
            steps.append((gain / price, item, gain, price, int(options[b])))
    steps.sort(key=lambda step: -step[0])
    room = limit - sum(int(items.costs[i][pick]) for i, pick in enumerate(picks))
    saved, bound_saved = 0.0, None
    blocked: set[int] = set()
    for rate, item, gain, price, option in steps:
        if price > room:
            # Up to here the steps are those of the linear relaxation, which takes part of this one.
            bound_saved = saved + rate * room if bound_saved is None else bound_saved
            blocked.add(item)
        elif item not in blocked:
            picks[item], room, saved = option, room - price, saved + gain
    start = sum(float(items.losses[i][options[0]]) for i, options in enumerate(kept))
    bound = start - (saved if bound_saved is None else bound_saved)
    _fill(items, kept, picks, room)
    return _choice(items, picks, max(0.0, bound), "greedy")


def _fill(items: Items, kept: list[NDArray[np.intp]], picks: list[int], room: float) -> None:
    """Spend what is left: again and again the exchange that saves most of those that fit."""
    while True:
        best, change = 0.0, None
        for item, options in enumerate(kept):
            costs, losses = items.costs[item], items.losses[item]
            fits = options[costs[options] - costs[picks[item]] <= room]
            if len(fits):
                option = int(fits[-1])
                gain = float(losses[picks[item]] - losses[option])
                if gain > best:
                    best, change = gain, (item, option)
        if change is None:
            return
        item, option = change
        room -= int(items.costs[item][option] - items.costs[item][picks[item]])
        picks[item] = option


def _exact(items: Items, kept: list[NDArray[np.intp]], limit: float, greedy: Choice) -> Choice:
    # The import takes a second, and small problems do not get here.
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    sizes = [len(options) for options in kept]
    costs = np.concatenate([items.costs[i][options] for i, options in enumerate(kept)])
    losses = np.concatenate([items.losses[i][options] for i, options in enumerate(kept)])
    item_of = np.repeat(np.arange(len(kept)), sizes)
    one_each = csr_array((np.ones(len(costs)), (item_of, np.arange(len(costs)))))
    scale = losses.max() or 1.0
    divisor = int(np.gcd.reduce(costs)) or 1
    found = milp(
        losses / scale,
        integrality=np.ones(len(costs)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(costs[None] / divisor, ub=math.floor(limit) / divisor),
        ],
        options={"time_limit": SECONDS, "mip_rel_gap": RELATIVE_GAP},
    )
    # The bound of HiGHS holds to its tolerance; that of the relaxation is valid as well.
    proven = -math.inf if found.mip_dual_bound is None else found.mip_dual_bound * scale
    bound = float(max(greedy.bound, proven))
    best = greedy
    if found.x is not None:
        starts = np.cumsum([0, *sizes])
        parts = zip(kept, starts, starts[1:], strict=False)
        picks = [int(options[found.x[a:b].argmax()]) for options, a, b in parts]
        exact = _choice(items, picks, bound, "stopped" if found.status == OUT_OF_TIME else "exact")
        # HiGHS takes numbers near integers for integers, so the limit is checked by exact costs.
        if exact.cost <= limit and exact.loss <= greedy.loss:
            best = exact
    return Choice(best.picks, best.cost, best.loss, float(min(bound, best.loss)), best.solver)


def _choice(items: Items, picks: list[int], bound: float, solver: str) -> Choice:
    cost = sum(int(items.costs[i][pick]) for i, pick in enumerate(picks))
    loss = sum(float(items.losses[i][pick]) for i, pick in enumerate(picks))
    return Choice(picks, cost, loss, float(min(bound, loss)), solver)
