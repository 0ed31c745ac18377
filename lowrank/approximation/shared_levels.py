"""Levels that the weights of a group share, found by a one-dimensional k-means."""

from __future__ import annotations

import torch
from torch import Tensor

from lowrank.factorizations import Codebook
from lowrank.factorizations.packing import Layout
from lowrank.numerics.kmeans import Start, kmeans, midpoints
from lowrank.numerics.memo import memoised


def by_kmeans(weight: Tensor, bits: int, group_size: int | str, start: Start = "best") -> Codebook:
    """A weight (out, in) on the centroids of its groups, each weight on the nearest.

    Args:
        start: of the centroids; see `kmeans`.
    """
    layout = Layout((weight.shape[0], weight.shape[1]), bits, group_size)
    values, sizes = sorted_groups(weight, group_size=group_size)
    centroids = kmeans(values, sizes, 2**bits, start).to(weight.dtype)
    groups = layout.split(weight).contiguous()
    codes = torch.searchsorted(midpoints(centroids.double()), groups.double())
    return Codebook(layout, layout.join(codes), centroids)


@memoised
def sorted_groups(weight: Tensor, *, group_size: int | str) -> tuple[Tensor, Tensor]:
    """The weights of each group (count, width), ascending, float64, then inf; and their number."""
    layout = Layout((weight.shape[0], weight.shape[1]), 1, group_size)
    filled = layout.filled(weight.device)
    values = torch.where(filled, layout.split(weight.double()), torch.inf)
    return values.sort(dim=1).values, filled.sum(dim=1)
