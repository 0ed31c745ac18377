"""One threshold on |w| for all layers together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowrank.allocation.allocation import Allocation
from lowrank.decomposers import Decomposer, MagnitudePruning
from lowrank.decomposers.magnitude_pruning import global_sparsities
from lowrank.layers import Site
from lowrank.norms import IDENTITY, Norm


@dataclass(frozen=True)
class GlobalMagnitude(Allocation):
    """Magnitude pruning that keeps the largest weights wherever they are.

    A layer of small weights loses more of them, so at one size the network usually loses less than
    under the same sparsity for each layer; at one number of MACs it can be the reverse (Blalock et
    al., MLSys 2020). Every layer keeps at least one weight.

    Args:
        sparsity: the share of zeros in the selected layers together, in [0, 1).
    """

    sparsity: float

    def allocate(self, sites: Sequence[Site], norm: Norm = IDENTITY) -> dict[str, Decomposer]:
        weights = {site.name: site.matrix() for site in sites}
        shares = global_sparsities(weights, self.sparsity)
        return {name: MagnitudePruning(sparsity=share) for name, share in shares.items()}
