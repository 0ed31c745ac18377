"""One threshold on |w| for all layers together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.allocation.allocation import Allocation, Plan, Problem
from lowrank.approximation.weight_checks import check_weight
from lowrank.decomposers import MagnitudePruning
from lowrank.norms import Identity
from lowrank.numerics.checks import check_sparsity
from lowrank.numerics.ranking import ranking


@dataclass(frozen=True)
class GlobalMagnitude(Allocation):
    """Magnitude pruning that keeps the largest weights wherever they are.

    A layer of small weights loses more of them, so at one size the network usually loses less than
    under the same sparsity for each layer; at one number of MACs it can be the reverse (Blalock et
    al., MLSys 2020). Every layer keeps at least one weight.

    Args:
        sparsity: the share of zeros in the selected layers together, in [0, 1).
    """

    norms = (Identity,)

    sparsity: float

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)

    @property
    def family(self) -> str:
        return "sparse"

    def check_shapes(self, problem: Problem) -> None:
        sizes = [site.weight.numel() for site in problem.sites]
        kept_of(sum(sizes), len(sizes), self.sparsity)

    def allocate(self, problem: Problem) -> Plan:
        weights = {site.name: site.matrix() for site in problem.sites}
        shares = global_sparsities(weights, self.sparsity)
        return Plan({name: MagnitudePruning(sparsity=share) for name, share in shares.items()})


def global_sparsities(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
    """Each layer's own sparsity when one magnitude threshold holds for all layers.

    In total exactly round(sparsity · N) of the N weights become zero, those of smallest magnitude,
    but for the largest of each layer, which stays. Equal magnitudes go from the last on.

    Args:
        weights: name → matrix.
        sparsity: share of all weights together that become zero, in [0, 1).

    Raises:
        ValueError: no weights, a weight that is not finite, or so few survivors that a layer would
            keep none.
    """
    if not weights:
        raise ValueError("a global sparsity needs at least 1 weight, got none")
    check_sparsity(sparsity)
    magnitudes = []
    for name, weight in weights.items():
        try:
            check_weight(weight)
        except ValueError as error:
            raise ValueError(f"layer '{name}': {error}") from error
        magnitude = weight.detach().flatten().abs()
        magnitude[magnitude.argmax()] = torch.inf
        magnitudes.append(magnitude)
    keep = kept_of(sum(map(len, magnitudes)), len(weights), sparsity)
    kept = ranking(torch.cat(magnitudes))[:keep]
    ends = torch.tensor([len(magnitude) for magnitude in magnitudes]).cumsum(0)
    layer = torch.bucketize(kept, ends.to(kept.device), right=True)
    counts = torch.bincount(layer, minlength=len(weights)).tolist()
    sizes = map(len, magnitudes)
    shares = [(size - count) / size for size, count in zip(sizes, counts, strict=True)]
    return dict(zip(weights, shares, strict=True))


def kept_of(total: int, layers: int, sparsity: float) -> int:
    """The number of `total` weights that stay.

    Raises:
        ValueError: so few that one of the layers would keep none.
    """
    keep = total - round(sparsity * total)
    if keep < layers:
        raise ValueError(
            f"sparsity={sparsity} leaves {keep} of {total} weights to {layers} layers, each of "
            "which keeps at least 1; lower it"
        )
    return keep
