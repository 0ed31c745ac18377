"""ALPS: the mask by alternating directions, then the best values for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.decomposers.magnitude_pruning import relative
from lowrank.decomposers.pruning import Pruning
from lowrank.factorizations import Factorization, Sparse
from lowrank.norms import Diagonal, Gram, Identity, Norm
from lowrank.numerics.checks import check_integer
from lowrank.numerics.curvature import UNPAIRED, has_pairs
from lowrank.numerics.memo import memoised
from lowrank.numerics.survivors import correlations, exact_update

# The penalty of the first and of the last iteration, in mean eigenvalues of the correlations.
PENALTIES = (0.1, 1000.0)


@dataclass(frozen=True)
class ALPS(Pruning):
    """W ≈ a sparse matrix, mask and values both chosen for the least error in the full norm.

    The mask comes from the alternating direction method of multipliers: a dense matrix that is near
    W in the norm and a sparse one, its projection on the pattern, pull each other together by a
    penalty that grows, until they agree. In coordinates in which every input has mean square 1, so
    that it starts from Wanda's mask. Then the survivors take the values of least error for the
    mask. Not the global optimum, but of the methods here the nearest, and in the norm never worse
    than as many blocks of `MagnitudePruning` in the diagonal one (Wanda): where its mask is nearer,
    that one is taken, with the best values, and a note says so.

    Every iteration costs 2 · out · in² multiplications and a sort, and the values those of
    `SparseGPT` with ``update="exact"``. In the identity and diagonal norms no weight can make up
    for another, Wanda's mask is the best, and it is `MagnitudePruning`.

    Args:
        sparsity, compression_ratio, pattern, within: as in `MagnitudePruning`. Competing in each
            row loses more in the norm than in the matrix, and often less of a model's quality.
        iterations: at least 2. 100 are within 0.5 % of the error of more, 30 within 2 %.

    Raises:
        ValueError: no block would survive.

    Source: Meng, Behdin, Wang & Mazumder, ALPS, NeurIPS 2024, algorithm 1, with a penalty that
    grows by a constant factor, other coordinates and exact values.
    """

    iterations: int = 100

    norms: ClassVar[tuple[type[Norm], ...]] = (Identity, Diagonal, Gram)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("iterations", self.iterations, least=2)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        matrix, moment = weight.double(), norm.second_moment(weight)
        project = self._projection(weight)
        # Relative to the largest, so that no square overflows or vanishes.
        scaled = relative(matrix.abs()) * matrix.sign()
        scaled = scaled * relative(norm.entry_weights(weight)).sqrt()
        kept = wanda = project(scaled)
        values, note = matrix, UNPAIRED
        if has_pairs(moment):
            note = ""
            kept = alternate(scaled, moment, project, self.iterations)
            values = exact_update(matrix, kept, moment)
            if norm(matrix - values) > norm(matrix * ~wanda):
                kept, values = wanda, exact_update(matrix, wanda, moment)
                note = "the mask is Wanda's: alternating directions found no better one"
        grid = self._pattern.grid((weight.shape[0], weight.shape[1]))
        blocks = grid.sum(kept.to(torch.uint8)) > 0
        sparse = Sparse.from_dense(values.to(weight.dtype), blocks, grid.block)
        sparse.note = note
        return sparse

    def _projection(self, weight: Tensor) -> Callable[[Tensor], Tensor]:
        """The mask (out, in) of the blocks of a matrix that are largest, as many as are kept."""
        pattern = self._pattern
        grid = pattern.grid((weight.shape[0], weight.shape[1]))
        # Blocks at the edge are smaller. As many are kept as fit whichever they are.
        sizes = grid.sum(torch.ones_like(weight, dtype=torch.float64))
        count = self._count(weight, grid, sizes)
        return lambda matrix: grid.expand(pattern.keep(grid.sum(matrix.square()), count, once=True))


def alternate(
    scaled: Tensor, moment: Tensor, project: Callable[[Tensor], Tensor], iterations: int
) -> Tensor:
    """The mask on which the dense and the sparse matrix agree.

    Args:
        scaled: the weight (out, in), each column times the root of its input's mean square.
        moment: (in, in).
        project: the mask of a matrix that keeps most of it in the Frobenius norm.
        iterations: at least 2.
    """
    _, correlation = correlations(moment)
    values, vectors = spectrum(correlation)
    first, last = PENALTIES
    kept, dual, target = project(scaled), torch.zeros_like(scaled), scaled @ correlation
    sparse = scaled * kept
    for step in range(iterations):
        penalty = first * (last / first) ** (step / (iterations - 1))
        dense = (target - dual + penalty * sparse) @ vectors / (values + penalty) @ vectors.T
        shifted = dense + dual / penalty
        kept = project(shifted)
        sparse = shifted * kept
        dual += penalty * (dense - sparse)
    return kept


@memoised
def spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors as columns of a symmetric matrix.

    What rounding left below zero is zero.
    """
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp_min(0), vectors
