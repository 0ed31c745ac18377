"""Ranks for all layers from one share of kept energy, chosen to meet a size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.allocation.rank_budget import RankAllocation, stored_params
from lowrank.approximation.low_rank import spectrum
from lowrank.norms import IDENTITY


@dataclass(frozen=True)
class KeptEnergy(RankAllocation):
    """Truncated SVDs that keep the same share of Σ s² in every layer.

    The share is the largest with which the ratio is reached. Every layer keeps at least rank 1; a
    layer for which the share asks for break-even or more stays dense.

    Arguments as of `RankAllocation`.
    """

    def ranks(self, matrices: Mapping[str, Tensor], budget: float) -> dict[str, int]:
        energies = {name: _energy_shares(matrix) for name, matrix in matrices.items()}

        def ranks_at(share: float) -> dict[str, int]:
            return {
                name: min(int(torch.searchsorted(energy, share)) + 1, len(energy))
                for name, energy in energies.items()
            }

        # The shares at which a rank changes are known, so the search ends at an exact one.
        shares = torch.cat(list(energies.values())).unique()
        low, high = 0, len(shares)
        while low < high:
            middle = (low + high) // 2
            if stored_params(matrices, ranks_at(float(shares[middle]))) <= budget:
                low = middle + 1
            else:
                high = middle
        return ranks_at(float(shares[low - 1]))


def _energy_shares(matrix: Tensor) -> Tensor:
    """The share of Σ s² that the first 1, 2, … singular values hold, in float64."""
    energy = spectrum(matrix, IDENTITY).square().cumsum(0)
    return energy / energy[-1] if energy[-1] > 0 else torch.ones_like(energy)
