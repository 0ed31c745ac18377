"""Sparse approximation of a matrix: a mask by ADMM, then the optimal values for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lowrank.approximation.patterns import Blocks, projection
from lowrank.factorizations import Dense, Factorization, Sparse
from lowrank.factorizations.block_grid import BlockGrid
from lowrank.norms import Norm
from lowrank.numerics.alternating_directions import alternate
from lowrank.numerics.curvature import UNPAIRED, is_diagonal
from lowrank.numerics.ranking import largest_entries, relative
from lowrank.numerics.storage import stored_bytes
from lowrank.numerics.survivors import exact_update

# ADMM iterations for the mask of the sparse matrix that a hybrid is compared with.
ALONE_ITERATIONS = 30


class SparseMatrix(NamedTuple):
    """Values (out, in), zero outside the mask, float64; the mask; and a note for the report."""

    values: Tensor
    kept: Tensor
    notes: tuple[str, ...] = ()


def nearest_sparse(
    weight: Tensor, norm: Norm, project: Callable[[Tensor], Tensor], iterations: int
) -> SparseMatrix:
    """The best found sparse matrix for a weight (out, in), never worse in the norm than Wanda's.

    Where the moment is diagonal, the values are those of the weight, also outside the mask.

    Args:
        project: the mask of a matrix that keeps most of it in the Frobenius norm.
        iterations: of alternating directions, at least 2.
    """
    matrix, moment = weight.double(), norm.second_moment(weight)
    # Relative to the largest, so that no square overflows or vanishes.
    scaled = relative(matrix.abs()) * matrix.sign()
    scaled = scaled * relative(norm.entry_weights(weight)).sqrt()
    wanda = project(scaled)
    if is_diagonal(moment):
        return SparseMatrix(matrix, wanda, (UNPAIRED,))
    kept = alternate(scaled, moment, project, iterations)
    values = exact_update(matrix, kept, moment)
    if norm(matrix - values) <= norm(matrix * ~wanda):
        return SparseMatrix(values, kept)
    notes = ("the mask is Wanda's: alternating directions found no better one",)
    return SparseMatrix(exact_update(matrix, wanda, moment), wanda, notes)


def sparse_within(weight: Tensor, norm: Norm, limit: float) -> Factorization | None:
    """The nearest found with the most single weights that take at most `limit` bytes.

    None if none does; where that is as large as the weight, the weight itself.
    """
    if limit >= stored_bytes(weight):
        return Dense(weight.clone())
    shape = weight.shape[0], weight.shape[1]
    count = BlockGrid(shape).affordable(limit, weight.itemsize)
    if not count:
        return None
    project = projection(Blocks(), shape, count)
    found = nearest_sparse(weight, norm, project, ALONE_ITERATIONS)
    sparse = Sparse.from_dense(found.values.to(weight.dtype), found.kept)
    sparse.notes = found.notes
    return sparse


@dataclass(frozen=True)
class SparsePart:
    """The best approximation of matrices by `count` single entries, in the norm of inputs that do
    not come together: the identity, a diagonal one."""

    norm: Norm
    count: int

    def nearest(self, target: Tensor) -> SparseMatrix:
        """The best for a target (out, in), in float64."""
        kept = largest_entries(target * self.norm.entry_weights(target).sqrt(), self.count)
        return SparseMatrix(target * kept, kept)
