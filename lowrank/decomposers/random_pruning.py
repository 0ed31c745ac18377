"""Random pruning: the control of pruning experiments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.decomposers.decomposer import generator_for
from lowrank.decomposers.pruning import ScoredPruning
from lowrank.factorizations import BlockGrid
from lowrank.norms import Norm
from lowrank.numerics.checks import check_integer


@dataclass(frozen=True)
class RandomPruning(ScoredPruning):
    """W ≈ W at positions drawn at random, 0 elsewhere.

    Never the right choice, but what a method must beat: on average the share of ‖W‖² that is lost
    equals the sparsity. The same number of survivors, in the same pattern, as `MagnitudePruning`,
    which describes the other arguments. The draw depends on the seed and on the weight's numbers,
    so layers of equal shape differ; a higher sparsity keeps a part of what a lower one keeps.
    Blocks of nothing but zeros go first, so what was pruned before stays so after training.

    Args:
        seed: of the draw.

    Source: the baseline of Blalock et al., What is the State of Neural Network Pruning?, MLSys
    2020.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("seed", self.seed)

    def scores(self, weight: Tensor, grid: BlockGrid, norm: Norm) -> Tensor:
        generator = generator_for(weight, self.seed)
        drawn = torch.rand(grid.size, generator=generator, dtype=torch.float64).to(weight.device)
        return torch.where(grid.sum(weight.abs()) > 0, drawn, drawn - 1)
