"""The sparse part of a hybrid: the nearest matrix of few entries to what another part leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lowrank.decomposers import alps, budget
from lowrank.norms import Norm
from lowrank.numerics.curvature import has_pairs
from lowrank.numerics.survivors import exact_update

# Of the search for a mask. 20 end 3 % farther away, 100 cost twice as much for 1 %.
MASK_ITERATIONS = 50


class SparseMatrix(NamedTuple):
    """Values (out, in), zero outside the mask, float64; and the mask."""

    values: Tensor
    kept: Tensor


@dataclass(frozen=True)
class SparsePart:
    """Matrices of `count` single entries that are near others in a norm.

    In the identity and diagonal norms they are the nearest there are. In the full norm the nearest
    is not known; the mask is that of `ALPS`, with the values of least error for it.
    """

    norm: Norm
    count: int

    def nearest(self, target: Tensor, before: SparseMatrix | None = None) -> SparseMatrix:
        """The best found for a target (out, in), in float64; in the norm never worse than `before`.

        What was found before keeps its mask where the new one is not nearer to the target.
        """
        moment = self.norm.second_moment(target)
        scaled = target * self.norm.entry_weights(target).sqrt()
        if not has_pairs(moment):
            kept = budget.largest(scaled, self.count)
            return SparseMatrix(target * kept, kept)
        kept = alps.alternate(
            scaled, moment, lambda matrix: budget.largest(matrix, self.count), MASK_ITERATIONS
        )
        found = SparseMatrix(exact_update(target, kept, moment), kept)
        if before is None or self.error(target, found) <= self.error(target, before):
            return found
        return SparseMatrix(exact_update(target, before.kept, moment), before.kept)

    def error(self, target: Tensor, found: SparseMatrix) -> float:
        """How far it is from a target in the norm."""
        return self.norm(target - found.values)
