"""One threshold on the singular values of all layers together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.allocation.allocation import Allocation
from lowrank.allocation.rank_budget import (
    check_compression_ratio,
    parameter_budget,
    singular_values,
    stored_params,
)
from lowrank.decomposers import Decomposer, TruncatedSVD
from lowrank.factorizations.operations import KernelView
from lowrank.layers import Site
from lowrank.norms import IDENTITY, Norm


@dataclass(frozen=True)
class GlobalRank(Allocation):
    """Truncated SVDs that keep the singular values worth most per parameter, wherever they are.

    A singular triplet lowers the squared error by s² and costs out + in parameters, so keeping all
    with s² / (out + in) above one threshold gives the least total squared error for the number of
    parameters that it ends with; a layer for which that is more than its dense parameters are
    worth stays dense. Every layer keeps at least rank 1. Weights count as they are, not relative
    to their layer: a layer of larger weights keeps more.

    Args:
        compression_ratio: dense over compressed parameters of the selected layers together, > 1;
            reached or exceeded by less than one threshold step.
        view: as which matrix a convolution's kernel is factored (see `Convolve`).
    """

    compression_ratio: float
    view: KernelView = "spatial"

    def __post_init__(self) -> None:
        check_compression_ratio(self.compression_ratio)

    def allocate(self, sites: Sequence[Site], norm: Norm = IDENTITY) -> dict[str, Decomposer]:
        matrices = {site.name: site.matrix(self.view) for site in sites}
        budget = parameter_budget(matrices, self.compression_ratio)
        curves = {name: _errors(matrix) for name, matrix in matrices.items()}

        def ranks(threshold: float) -> dict[str, int]:
            return {
                name: _best_rank(errors, matrices[name].shape, threshold)
                for name, errors in curves.items()
            }

        # Bisection of the exponent: 60 halvings reach the resolution of a double.
        total = float(sum(errors[0] for errors in curves.values()))
        low, high = 1e-30 * total, total
        for _ in range(60):
            middle = (low * high) ** 0.5
            if stored_params(matrices, ranks(middle)) <= budget:
                high = middle
            else:
                low = middle
        return {name: TruncatedSVD(rank=rank, view=self.view) for name, rank in ranks(high).items()}


def _errors(matrix: Tensor) -> Tensor:
    """The squared error of ranks 0, 1, …, min(out, in), in float64."""
    energy = singular_values(matrix).square()
    tail = energy.flip(0).cumsum(0).flip(0)
    return torch.cat([tail, tail.new_zeros(1)])


def _best_rank(errors: Tensor, shape: torch.Size, threshold: float) -> int:
    """The rank from 1 on that minimises squared error + threshold · stored parameters."""
    ranks = torch.arange(1, len(errors), dtype=torch.float64)
    dense = shape[0] * shape[1]
    cost = (ranks * sum(shape)).clamp(max=dense)
    # Where the factors would not be smaller the layer stays dense, and exact.
    error = torch.where(cost < dense, errors[1:], 0.0)
    return int((error + threshold * cost).argmin()) + 1
