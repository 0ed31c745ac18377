"""Ranking of scores: their order, and which of them are the largest."""

from __future__ import annotations

import torch
from torch import Tensor

from lowrank.numerics.memo import memoised


def descending(scores: Tensor) -> Tensor:
    """The places of the scores along the last dimension, largest first, equal ones in their order.

    Same shape, int64.
    """
    return scores.argsort(dim=-1, descending=True, stable=True)


def largest(scores: Tensor, count: int) -> Tensor:
    """The mask of the `count` largest scores of each row (rows, n); of equal scores the first.

    The same mask as from the first places of `descending`, without sorting: several times as fast.
    """
    if count < 1:
        return torch.zeros_like(scores, dtype=torch.bool)
    least = scores.kthvalue(scores.shape[1] - count + 1, dim=1, keepdim=True).values
    above, level = scores > least, scores == least
    missing = count - above.sum(dim=1, keepdim=True)
    return above | (level & (level.cumsum(dim=1) <= missing))


def largest_entries(matrix: Tensor, count: int) -> Tensor:
    """The mask of exactly `count` entries of largest magnitude; of equal ones the first."""
    return largest(matrix.abs().flatten()[None], count).view(matrix.shape)


@memoised
def ranking(scores: Tensor) -> Tensor:
    """`descending`, kept by content: one sort serves every number of survivors."""
    return descending(scores)


def relative(values: Tensor) -> Tensor:
    """Values that are not negative as shares of the largest; zeros stay zeros."""
    return values / values.max().clamp_min(torch.finfo(torch.float64).tiny)
