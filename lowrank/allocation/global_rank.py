"""One threshold on the singular values of all layers together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.allocation.rank_budget import RankAllocation, stored_params
from lowrank.approximation.low_rank import spectrum
from lowrank.norms import IDENTITY
from lowrank.numerics import factors


@dataclass(frozen=True)
class GlobalRank(RankAllocation):
    """Truncated SVDs that keep the singular values worth most per parameter, wherever they are.

    A singular triplet lowers the squared error by s² and costs out + in parameters, so keeping all
    with s² / (out + in) above one threshold gives the least total squared error for the number of
    parameters that it ends with; a layer for which that is more than its dense parameters are
    worth stays dense. Every layer keeps at least rank 1. Weights count as they are, not relative
    to their layer: a layer of larger weights keeps more.

    The ratio is reached or exceeded by less than one threshold step. Arguments as of
    `RankAllocation`.
    """

    def ranks(self, matrices: Mapping[str, Tensor], budget: float) -> dict[str, int]:
        curves = {name: _curve(matrix) for name, matrix in matrices.items()}

        def ranks_at(threshold: float) -> dict[str, int]:
            # The rank that minimises squared error + threshold · stored parameters.
            return {
                name: int((errors + threshold * costs).argmin()) + 1
                for name, (errors, costs) in curves.items()
            }

        # Bisection of the exponent: 60 halvings reach the resolution of a double.
        total = float(sum(spectrum(m, IDENTITY).square().sum() for m in matrices.values()))
        low, high = 1e-30 * total, total
        for _ in range(60):
            middle = (low * high) ** 0.5
            if stored_params(matrices, ranks_at(middle)) <= budget:
                high = middle
            else:
                low = middle
        return ranks_at(high)


def _curve(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error and stored parameters of ranks 1, 2, …, min(out, in), in float64."""
    energy = spectrum(matrix, IDENTITY).square()
    tail = energy.flip(0).cumsum(0).flip(0)
    errors = torch.cat([tail[1:], tail.new_zeros(1)])
    costs = [factors.stored_params(matrix.shape, rank) for rank in range(1, len(energy) + 1)]
    # Where the factors would not be smaller the layer stays dense, and exact.
    smaller = [factors.is_smaller(matrix.shape, rank) for rank in range(1, len(energy) + 1)]
    errors = torch.where(torch.tensor(smaller, device=errors.device), errors, 0.0)
    return errors, torch.tensor(costs, dtype=torch.float64, device=errors.device)
