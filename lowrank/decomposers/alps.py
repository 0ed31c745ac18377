"""ALPS: pruning with a mask by ADMM, then the optimal values for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.approximation.patterns import projection
from lowrank.approximation.sparse_part import nearest_sparse
from lowrank.decomposers.pruning import Pruning
from lowrank.factorizations import Factorization, Sparse
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import check_integer


@dataclass(frozen=True)
class ALPS(Pruning):
    """W ≈ a sparse matrix, mask and values both chosen for the least error in the full norm.

    The mask comes from the alternating direction method of multipliers (ADMM): a growing penalty
    pulls a dense matrix near W and its projection on the pattern together until they agree. Inputs
    are scaled to mean square 1, so that it starts from Wanda's mask. Then the survivors take the
    values of least error for the mask. This is not the global optimum, but the nearest of the
    methods here. It is never worse in the norm than as many blocks of `MagnitudePruning` in the
    diagonal norm (Wanda): where Wanda's mask is nearer, that mask is taken, with the optimal
    values, and a note says so.

    Every iteration costs 2 · out · in² multiplications and a sort, and the values cost as much as
    in `SparseGPT` with ``update="exact"``. In the identity and diagonal norms no weight can
    compensate another, Wanda's mask is optimal, and the method is `MagnitudePruning`.

    Args:
        sparsity, compression_ratio, pattern, within: as in `MagnitudePruning`. ``"row"`` has a
            larger error in the norm than ``"matrix"``, and often a smaller loss of quality.
        iterations: at least 2. 100 are within 0.5 % of the error of more, 30 within 2 %.

    Raises:
        ValueError: no block would survive.

    Source: Meng, Behdin, Wang & Mazumder, ALPS, NeurIPS 2024, algorithm 1, with a penalty that
    grows by a constant factor, other coordinates and exact values.
    """

    iterations: int = 100

    norms: ClassVar[tuple[type[Norm], ...]] = (Identity, Diagonal, Full)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("iterations", self.iterations, least=2)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        pattern, shape = self._pattern, (weight.shape[0], weight.shape[1])
        grid = pattern.grid(shape)
        # Blocks at the edge are smaller; the count fits whichever blocks are kept.
        sizes = grid.sum(torch.ones_like(weight, dtype=torch.float64))
        project = projection(pattern, shape, self._count(weight, grid, sizes))
        found = nearest_sparse(weight, norm, project, self.iterations)
        blocks = grid.sum(found.kept.to(torch.uint8)) > 0
        sparse = Sparse.from_dense(found.values.to(weight.dtype), blocks, grid.block)
        sparse.notes = found.notes
        return sparse
