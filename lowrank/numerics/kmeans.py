"""One-dimensional k-means on sorted values, many rows at once."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# Centroids start where the power of the gaps between sorted weights has equal sums: the power 0
# gives quantiles, 1 even steps, and 2/3 the density p^(1/3) that is optimal for many levels.
EVEN = 1.0
STARTS = (2 / 3, 0.0, EVEN)
Start = Literal["best", "even"]
MAX_ITERATIONS = 1000
# The number of places tried at once for each edge between clusters, and their reach in edges.
PLACES = 33
SPANS = (8, 1)
MAX_ROUNDS = 5


def kmeans(values: Tensor, sizes: Tensor, clusters: int, start: Start = "best") -> Tensor:
    """Centroids (count, clusters), ascending, of each row of sorted values.

    Lloyd's algorithm from the best of three starts, in turn with a search by dynamic programming in
    a window around each edge between clusters, until neither lowers the squared error or MAX_ROUNDS
    are over. A local optimum; the global one for rows shorter than PLACES. No randomness.

    Args:
        start: ``"best"``, or ``"even"``: Lloyd's algorithm alone, from even steps over the range.
        values: shape (count, width), ascending, float64, inf beyond `sizes`.
        sizes: values in each row, shape (count,).

    Source: Lloyd, IEEE Transactions on Information Theory 28(2), 1982; dynamic programming: Wang &
    Song, The R Journal 3(2), 2011; density of levels: Panter & Dite, Proceedings of the IRE 39(1),
    1951.
    """
    centroids, few = _distinct(values, clusters)
    rest = ~few
    if bool(rest.any()):
        centroids[rest] = _search(values[rest], sizes[rest], clusters, start)
    return centroids


def midpoints(centroids: Tensor) -> Tensor:
    """Where the nearest of the ascending centroids changes."""
    return (centroids[:, :-1] + (centroids[:, 1:] - centroids[:, :-1]) / 2).contiguous()


def _distinct(values: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """The distinct values of each row, the largest repeated, and whether these are all of them."""
    filled = values.isfinite()
    new = F.pad(values.diff(dim=1) > 0, (1, 0), value=True) & filled
    place = (new.cumsum(dim=1) - 1).clamp_max(clusters - 1)
    largest = torch.where(filled, values, -torch.inf).amax(dim=1, keepdim=True)
    # Equal values share a place; those past the last centroid meet there, in rows that have more.
    distinct = largest.repeat(1, clusters)
    distinct.scatter_(1, place, torch.where(filled, values, largest))
    return distinct, new.sum(dim=1) <= clusters


def _search(values: Tensor, sizes: Tensor, clusters: int, start: Start) -> Tensor:
    # Relative to the largest of a row, so that no sum or square overflows.
    unit = torch.where(values.isfinite(), values.abs(), 0.0).amax(dim=1, keepdim=True)
    rows = SortedRows(values / unit, sizes)
    if start == "even":
        return rows.centroids(rows.lloyd(rows.start(clusters, EVEN))) * unit
    best = rows.lloyd(rows.start(clusters, STARTS[0]))
    for power in STARTS[1:]:
        best = rows.better(best, rows.lloyd(rows.start(clusters, power)))
    for _ in range(MAX_ROUNDS):
        before = best
        for span in SPANS:
            best = rows.better(best, rows.lloyd(rows.among(best, span)))
        if torch.equal(best, before):
            break
    return rows.centroids(best) * unit


class SortedRows:
    """Rows of ascending values and their partitions into consecutive clusters.

    A partition is its edges (count, clusters + 1): cluster c holds the values from place edges[c]
    up to edges[c + 1], perhaps none.

    Args:
        values: shape (count, width), ascending, float64, inf beyond `sizes`.
        sizes: values in each row, shape (count,).
    """

    def __init__(self, values: Tensor, sizes: Tensor) -> None:
        self.values = values
        self.sizes = sizes[:, None]
        finite = torch.where(values.isfinite(), values, 0.0)
        self.sums = F.pad(finite.cumsum(dim=1), (1, 0))

    def start(self, clusters: int, power: float) -> Tensor:
        """The partition by values at equal steps of the summed `power` of the gaps."""
        gaps = self.values.diff(dim=1)
        weights = torch.where(gaps.isfinite(), gaps.pow(power), 0.0)
        cumulative = F.pad(weights.cumsum(dim=1), (1, 0))
        steps = (torch.arange(clusters, device=gaps.device) + 0.5) / clusters
        found = torch.searchsorted(cumulative, cumulative[:, -1:] * steps)
        return self.partition(self.values.gather(1, torch.minimum(found, self.sizes - 1)))

    def lloyd(self, edges: Tensor) -> Tensor:
        """The means of the clusters, then the clusters of the means, until nothing changes."""
        for _ in range(MAX_ITERATIONS):
            before, edges = edges, self.partition(self.centroids(edges))
            if torch.equal(edges, before):
                break
        return edges

    def among(self, edges: Tensor, span: int) -> Tensor:
        """The best of all partitions with each edge at one of PLACES places, never a worse one.

        The places are the given edge and, ever farther apart, those up to `span` edges before and
        after it. In rows shorter than PLACES all places there are, which makes the partition the
        best of all.
        """
        if self.values.shape[1] < PLACES:
            every = torch.arange(PLACES, device=edges.device)
            places = every.expand(*edges.shape, PLACES)
        else:
            last = edges.shape[1] - 1
            number = torch.arange(last + 1, device=edges.device)
            before = edges - edges[:, (number - span).clamp_min(0)]
            after = edges[:, (number + span).clamp_max(last)] - edges
            offsets = [-_steps(before), torch.zeros_like(edges)[:, :, None], _steps(after)]
            places = edges[:, :, None] + torch.cat(offsets, dim=2)
        places = torch.minimum(places, self.sizes[:, :, None])
        places[:, 0], places[:, -1] = 0, self.sizes
        return self._best_chain(places)

    def _best_chain(self, places: Tensor) -> Tensor:
        """Dynamic programming over edge after edge, places (count, clusters + 1, PLACES)."""
        at = self.sums.gather(1, places.flatten(1)).view(places.shape)
        explained = torch.zeros_like(at[:, 0])
        choices = []
        for edge in range(1, places.shape[1]):
            counts = places[:, edge, None, :] - places[:, edge - 1, :, None]
            gain = (at[:, edge, None, :] - at[:, edge - 1, :, None]).square() / counts.clamp_min(1)
            total = explained[:, :, None] + torch.where(counts >= 0, gain, -torch.inf)
            explained, choice = total.max(dim=1)
            choices.append(choice)
        best = explained.argmax(dim=1, keepdim=True)
        chain = [places[:, -1].gather(1, best)]
        for edge in range(len(choices) - 1, -1, -1):
            best = choices[edge].gather(1, best)
            chain.append(places[:, edge].gather(1, best))
        return torch.cat(chain[::-1], dim=1)

    def better(self, edges: Tensor, other: Tensor) -> Tensor:
        """For each row the partition with the smaller sum of squared errors."""
        return torch.where(self._explained(other) > self._explained(edges), other, edges)

    def centroids(self, edges: Tensor) -> Tensor:
        """The mean of each cluster, ascending; of an empty one the value at its place."""
        counts = edges.diff(dim=1)
        means = self.sums.gather(1, edges).diff(dim=1) / counts.clamp_min(1)
        here = self.values.gather(1, torch.minimum(edges[:, :-1], self.sizes - 1))
        # Rounding must not put one before another.
        return torch.where(counts > 0, means, here).cummax(dim=1).values

    def partition(self, centroids: Tensor) -> Tensor:
        """The edges between the values nearest to each of the ascending centroids."""
        inner = torch.searchsorted(self.values, midpoints(centroids), right=True)
        return torch.cat([torch.zeros_like(self.sizes), inner, self.sizes], dim=1)

    def _explained(self, edges: Tensor) -> Tensor:
        """Sum of squares of the values less their squared errors, (count, 1)."""
        sums = self.sums.gather(1, edges).diff(dim=1)
        counts = edges.diff(dim=1).clamp_min(1)
        return (sums.square() / counts).sum(dim=1, keepdim=True)


def _steps(reach: Tensor) -> Tensor:
    """From 1 to `reach` in steps of equal ratio, (…, PLACES // 2) integers; 0 where that is 0."""
    powers = torch.linspace(0, 1, PLACES // 2, dtype=torch.float64, device=reach.device)
    steps = reach.double()[..., None].pow(powers).round().to(torch.int64)
    return torch.minimum(steps, reach[..., None])
