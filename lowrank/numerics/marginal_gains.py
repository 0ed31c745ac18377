"""Division of a budget by marginal gains: the step that gains most per cost comes first."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def by_marginal_gain(
    gains: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], budget: int, least: int = 0
) -> list[int]:
    """Steps taken of several items, each item's in their order.

    Again and again the item whose next step gains most per cost takes it; an item whose next step
    does not fit is done, and so is one without steps that gain. Where the gains per cost of every
    item fall, no choice of the same total cost gains more; with equal costs that holds for every
    budget.

    Args:
        gains: of the steps of each item, at least 0.
        costs: likewise, above 0.
        budget: of all steps together.
        least: steps that every item takes first, whatever they gain.

    Raises:
        ValueError: the first steps cost more than the budget.
    """
    taken = [least] * len(gains)
    left = budget - sum(sum(own[:least]) for own in costs)
    if left < 0:
        raise ValueError(
            f"a budget of {budget} is out of reach: {least} steps of each of {len(gains)} items "
            f"cost {budget - left}"
        )

    def following(place: int) -> list[tuple[float, int, int]]:
        step = taken[place]
        if step >= len(gains[place]) or gains[place][step] <= 0:
            return []
        return [(-gains[place][step] / costs[place][step], step, place)]

    heap = [entry for place in range(len(gains)) for entry in following(place)]
    heapq.heapify(heap)
    while heap:
        _, step, place = heapq.heappop(heap)
        if costs[place][step] <= left:
            left -= costs[place][step]
            taken[place] += 1
            for entry in following(place):
                heapq.heappush(heap, entry)
    return taken
