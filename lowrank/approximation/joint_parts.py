"""Low rank plus sparse in the full norm: both parts at once, then each in turn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.approximation.low_rank import Factors, nearest
from lowrank.approximation.sparse_part import SparseMatrix
from lowrank.norms import Norm
from lowrank.numerics.alternating_directions import relative, settled
from lowrank.numerics.ranking import largest_entries
from lowrank.numerics.survivors import exact_update

# Iterations of alternating directions, and their penalties as of `alternating_directions`: 100
# have up to 2 % less error. Above 3, the places of the entries hardly change any more.
JOINT_ITERATIONS, JOINT_PENALTIES = 60, (0.1, 3.0)
# Share of the error that a turn takes off, or it was the last.
PAYS = 0.01


@dataclass
class SumProjection:
    """Projection on sums of a matrix of low rank and one of few entries, in the Frobenius norm.

    Each matrix is projected by one turn from the parts of the last, which was nearly the same.

    Attributes:
        basis: orthonormal columns, (out, rank).
        sparse, kept: the entries and their mask, (out, in).
        count: of entries.
    """

    basis: Tensor
    sparse: Tensor
    kept: Tensor
    count: int

    @classmethod
    def around(cls, matrix: Tensor, basis: Tensor, count: int) -> SumProjection:
        """The projection of a matrix (out, in) on a basis, and the largest entries of the rest."""
        rest = matrix - basis @ (basis.T @ matrix)
        kept = largest_entries(rest, count)
        return cls(basis, rest * kept, kept, count)

    def nearest(self, matrix: Tensor) -> Tensor:
        """A sum near a matrix (out, in)."""
        missed = matrix - self.sparse
        self.basis = torch.linalg.qr(missed @ (missed.T @ self.basis))[0]
        low_rank = self.basis @ (self.basis.T @ missed)
        rest = matrix - low_rank
        self.kept = largest_entries(rest, self.count)
        self.sparse = rest * self.kept
        return low_rank + self.sparse


def joint_parts(
    weight: Tensor, norm: Norm, start: Factors, count: int, turns: int
) -> tuple[Factors, SparseMatrix]:
    """The factors as they are stored, and the sparse part with the best values beside them.

    In a norm in which inputs come together. The error does not grow from turn to turn, and is at
    most that of the nearest factors of the rank as they are stored.

    Args:
        weight: (out, in).
        start: the nearest factors for the weight alone, of the rank that is wanted.
        count: of entries.
        turns: the most that are taken; fewer where one takes little off the error.
    """
    exact, moment, rank = weight.double(), norm.second_moment(weight), start.left.shape[1]

    def filled(factors: Factors, kept: Tensor) -> tuple[float, Factors, SparseMatrix]:
        """The error of stored factors with the best values for a mask, and the two."""
        left, right = factors.left.to(weight.dtype), factors.right.to(weight.dtype)
        rest = exact - left.double() @ right.double()
        values = exact_update(rest, kept, moment)
        parts = Factors(left, right, factors.notes), SparseMatrix(values, kept)
        return norm(rest - values), *parts

    sparse = _found_together(exact, norm, start, count)
    factors = nearest(exact - sparse.values, rank, norm)
    before = norm(exact - factors.left @ factors.right - sparse.values)
    best = filled(factors, sparse.kept)
    for _ in range(turns - 1):
        if best[0] >= (1 - PAYS) * before:
            break
        before, sparse = best[0], best[2]
        found = filled(nearest(exact - sparse.values, rank, norm), sparse.kept)
        best = min(best, found, key=lambda one: one[0])
    if best[0] > norm(exact - start.left @ start.right):
        best = min(best, filled(start, sparse.kept), key=lambda one: one[0])
    return best[1:]


def _found_together(weight: Tensor, norm: Norm, start: Factors, count: int) -> SparseMatrix:
    """The sparse part as alternating directions find it with that of low rank, in float32."""
    scales = norm.entry_weights(weight).sqrt().expand(weight.shape)
    scaled, largest = relative(weight * scales)
    rows = norm.row_weights(weight).sqrt()[:, None]
    sums = SumProjection.around(scaled, torch.linalg.qr(rows * start.left)[0].float(), count)
    settled(scaled, norm.second_moment(weight), sums.nearest, JOINT_ITERATIONS, JOINT_PENALTIES)
    values = torch.where(scales > 0, sums.sparse.double() * largest / scales, 0)
    return SparseMatrix(values, sums.kept)
