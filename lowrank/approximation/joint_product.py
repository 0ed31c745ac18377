"""Low rank times sparse in the full norm: both factors at once, by alternating directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.approximation.sparse_part import SparseMatrix
from lowrank.numerics.alternating_directions import relative, settled
from lowrank.numerics.ranking import largest_entries
from lowrank.numerics.survivors import correlations

# Iterations of alternating directions, and their penalties as of `alternating_directions`: a lower
# first penalty is nearer for some weights and farther for others, by half a per cent.
PRODUCT_ITERATIONS, PRODUCT_PENALTIES = 80, (0.5, 3.0)


@dataclass
class CodesProjection:
    """Projection on products of orthonormal columns and a sparse matrix, in the Frobenius norm.

    Each matrix is projected by one turn from the factors of the last, which was nearly the same.

    Attributes:
        left: orthonormal columns, (out, rank).
        codes, kept: the sparse factor and its mask, (rank, in).
        count: of its entries.
    """

    left: Tensor
    codes: Tensor
    kept: Tensor
    count: int

    @classmethod
    def of(cls, matrix: Tensor, left: Tensor, count: int) -> CodesProjection:
        """The largest entries of leftᵀ times a matrix (out, in)."""
        codes = left.T @ matrix
        kept = largest_entries(codes, count)
        return cls(left, codes * kept, kept, count)

    def nearest(self, matrix: Tensor) -> Tensor:
        """A product near a matrix (out, in)."""
        left = orthonormal(matrix @ self.codes.T)
        found = CodesProjection.of(matrix, left, self.count)
        self.left, self.codes, self.kept = left, found.codes, found.kept
        return self.left @ self.codes


def orthonormal(matrix: Tensor) -> Tensor:
    """The nearest matrix (out, rank) with orthonormal columns, in the same dtype.

    From the eigenvectors of the Gram matrix, in float64: a fraction of the time of a singular value
    decomposition. Directions within rounding errors come out shorter.
    """
    exact = matrix.double()
    values, vectors = torch.linalg.eigh(exact.T @ exact)
    floor = len(values) * torch.finfo(values.dtype).eps * values[-1]
    floor = floor.clamp_min(torch.finfo(values.dtype).tiny)
    roots = torch.maximum(values, floor).rsqrt()
    return (exact @ (vectors * roots @ vectors.T)).to(matrix.dtype)


def joint_codes(scaled: Tensor, moment: Tensor, left: Tensor, count: int) -> SparseMatrix:
    """The sparse factor of a weight, found together with an orthonormal left one, in float32.

    Args:
        scaled: the weight (out, in), its rows times the roots of their weights.
        moment: B, (in, in), not diagonal.
        left: where it starts, orthonormal, (out, rank).
        count: of entries.

    Returns:
        Values and mask (rank, in), float64.
    """
    scale, _ = correlations(moment)
    matrix, largest = relative(scaled * scale)
    codes = CodesProjection.of(matrix, left.float(), count)
    settled(matrix, moment, codes.nearest, PRODUCT_ITERATIONS, PRODUCT_PENALTIES)
    return SparseMatrix(codes.codes.double() * largest / scale, codes.kept)
