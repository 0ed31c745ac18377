"""One threshold on the singular values of all layers together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.allocation.allocation import Allocation
from lowrank.allocation.rank_budget import parameter_budget, singular_values, stored_params
from lowrank.decomposers import Decomposer, TruncatedSVD, low_rank
from lowrank.decomposers.checks import check_one_of, check_ratio
from lowrank.decomposers.decomposer import check_norm
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.norms import IDENTITY, Identity, Norm
from lowrank.sites import Site


@dataclass(frozen=True)
class GlobalRank(Allocation):
    """Truncated SVDs that keep the singular values worth most per parameter, wherever they are.

    A singular triplet lowers the squared error by s² and costs out + in parameters, so keeping all
    with s² / (out + in) above one threshold gives the least total squared error for the number of
    parameters that it ends with; a layer for which that is more than its dense parameters are
    worth stays dense. Every layer keeps at least rank 1. Weights count as they are, not relative
    to their layer: a layer of larger weights keeps more.

    Args:
        compression_ratio: dense over compressed parameters of the selected layers together, at
            least 1; reached or exceeded by less than one threshold step.
        view: as which matrix a convolution's kernel is factored (see `Convolve`).
    """

    compression_ratio: float
    view: KernelView = "spatial"

    def __post_init__(self) -> None:
        check_ratio(self.compression_ratio)
        check_one_of("view", self.view, KERNEL_VIEWS)

    def allocate(self, sites: Sequence[Site], norm: Norm = IDENTITY) -> dict[str, Decomposer]:
        check_norm(norm, (Identity,), by="GlobalRank")
        matrices = {site.name: site.matrix(self.view) for site in sites}
        budget = parameter_budget(matrices, self.compression_ratio)
        curves = {name: _curve(matrix) for name, matrix in matrices.items()}

        def ranks(threshold: float) -> dict[str, int]:
            # The rank that minimises squared error + threshold · stored parameters.
            return {
                name: int((errors + threshold * costs).argmin()) + 1
                for name, (errors, costs) in curves.items()
            }

        # Bisection of the exponent: 60 halvings reach the resolution of a double.
        total = float(sum(singular_values(m).square().sum() for m in matrices.values()))
        low, high = 1e-30 * total, total
        for _ in range(60):
            middle = (low * high) ** 0.5
            if stored_params(matrices, ranks(middle)) <= budget:
                high = middle
            else:
                low = middle
        return {name: TruncatedSVD(rank=rank, view=self.view) for name, rank in ranks(high).items()}


def _curve(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error and stored parameters of ranks 1, 2, …, min(out, in), in float64."""
    energy = singular_values(matrix).square()
    tail = energy.flip(0).cumsum(0).flip(0)
    errors = torch.cat([tail[1:], tail.new_zeros(1)])
    costs = [low_rank.stored_params(matrix.shape, rank) for rank in range(1, len(energy) + 1)]
    # Where the factors would not be smaller the layer stays dense, and exact.
    smaller = [low_rank.is_smaller(matrix.shape, rank) for rank in range(1, len(energy) + 1)]
    errors = torch.where(torch.tensor(smaller, device=errors.device), errors, 0.0)
    return errors, torch.tensor(costs, dtype=torch.float64, device=errors.device)
