"""Pooled statistics of a weight that several modules use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lowrank.calibration.statistics import Statistics
from lowrank.model.sites import Site


def positions(statistics: Mapping[str, Statistics]) -> int:
    """The largest number of positions, such as tokens, that a layer saw."""
    return max(entry.count for entry in statistics.values())


def few_positions(entries: Sequence[Statistics]) -> tuple[str, ...]:
    """A note for a weight whose inputs were seen at fewer positions than they have numbers, such as
    that of an expert to which few tokens were routed: E[x xᵀ] then says nothing in some directions,
    and the damping of the norm alone decides there."""
    count = sum(entry.count for entry in entries)
    sizes = [len(e.columns) for e in entries if e.columns is not None and e.columns.ndim == 2]
    if not sizes or count >= max(sizes):
        return ()
    return (
        f"its inputs were seen at {count} positions, fewer than the {max(sizes)} numbers in one: "
        "where they say nothing, damping decides",
    )


def pooled(site: Site, statistics: Mapping[str, Statistics]) -> Statistics:
    """The statistics of a weight over all modules that use it, with equal weight for each position.

    If one module looks rows up and another multiplies by the weight, as a tied head does, the error
    of a look-up counts as the mean error of a row, ‖ΔW‖² / out. This adds a multiple of the
    identity to the moment.
    """
    used = [use for use in site.uses if statistics[use.name].count]
    entries = [statistics[use.name] for use in used]
    if all(entry is entries[0] for entry in entries):
        return entries[0]
    count = sum(entry.count for entry in entries)

    def mean(tensors: Sequence[Tensor]) -> Tensor:
        weighted = [t * (e.count / count) for t, e in zip(tensors, entries, strict=True)]
        return torch.stack(weighted).sum(dim=0)

    if all(use.rule.looks_up for use in used):
        return Statistics(None, mean([e.rows for e in entries if e.rows is not None]), count)
    like = next(entry.columns for entry in entries if entry.columns is not None)
    ones = torch.ones_like(like) if like.ndim == 1 else torch.eye(len(like)).to(like)
    columns = [
        ones / len(site.weight) if entry.columns is None else entry.columns for entry in entries
    ]
    # The rows of a look-up table are shares of look-ups; only the rows from gradients already hold
    # all uses.
    multiplied = next(e for e in entries if e.columns is not None)
    return Statistics(mean(columns), multiplied.rows, count)
