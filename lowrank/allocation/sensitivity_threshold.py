"""One threshold on the loss of every layer: each takes the smallest candidate below it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowrank.allocation.budgeted import Budgeted, Knapsack, KnapsackSolution
from lowrank.numerics.knapsack import Items


@dataclass(frozen=True)
class SensitivityThreshold(Budgeted):
    """Every layer takes the smallest candidate whose loss is below a threshold shared by all.

    The threshold is the lowest that meets the budget. With truncated SVDs of several ranks as
    candidates and a measured sensitivity as loss this is the rank search of ASVD. A baseline:
    it bounds the loss of every layer alike, and ignores what each layer pays to stay below it.

    Source: Yuan et al., 2023 (ASVD), section 3.3, sensitivity-based truncation rank searching.
    """

    def solve(self, knapsack: Knapsack) -> KnapsackSolution:
        items, options = knapsack.items, knapsack.analysis.options
        thresholds = np.unique(np.concatenate(items.losses))
        low, high = 0, len(thresholds) - 1  # The highest admits the smallest of every layer.
        while low < high:
            middle = (low + high) // 2
            if _cost(items, picks_below(items, thresholds[middle])) <= knapsack.limit:
                high = middle
            else:
                low = middle + 1
        picks = picks_below(items, thresholds[low])
        pairs = zip(options, picks, strict=True)
        taken = {name: options[name][pick] for name, pick in pairs}
        loss = sum(float(of[pick]) for of, pick in zip(items.losses, picks, strict=True))
        return KnapsackSolution(taken, {"loss": loss, "threshold": float(thresholds[low])})


def picks_below(items: Items, threshold: float) -> list[int]:
    """Of each item the cheapest option whose loss is at most the threshold, or that of least
    loss; of equally cheap ones that of less loss."""
    picks = []
    for costs, losses in zip(items.costs, items.losses, strict=True):
        allowed = np.flatnonzero(losses <= max(threshold, losses.min()))
        picks.append(int(allowed[np.lexsort((losses[allowed], costs[allowed]))[0]]))
    return picks


def _cost(items: Items, picks: list[int]) -> int:
    return sum(int(costs[pick]) for costs, pick in zip(items.costs, picks, strict=True))
