"""Optimal values of the weights that pruning keeps: least squares for a given mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.numerics.curvature import is_diagonal

# Eigenvalues and squared pivots below this share of the largest are rounding errors.
SINGULAR = 1e-10

# Squared pivots above which an inverse keeps half of the digits.
REGULAR = 1e-6

# The most numbers in systems that are solved together; on a CPU they stay in the cache.
PIECE = 2**20
ACCELERATED_PIECE = 2**26


def exact_update(weight: Tensor, kept: Tensor, moment: Tensor) -> Tensor:
    """The values of the survivors with the least error for a mask: least squares, row by row.

    Each row of ŵ minimises (w − ŵ) B (w − ŵ)ᵀ over all that are zero outside the mask; weights of
    rows do not change it. With k survivors it takes k³ / 3 multiplications for a row, or, where
    more than half survive and B has an inverse, (in − k)³ / 3: then the Lagrange multipliers of the
    zeros are found instead (optimal brain surgeon, Hassibi & Stork 1992, for many at once).

    Args:
        weight: shape (out, in).
        kept: the mask, same shape.
        moment: B, (in, in), positive semi-definite; where it is singular on the survivors, the
            solution of least change is taken.

    Returns:
        Shape (out, in), float64; where no change pays, bit for bit the weight.
    """
    weight = weight.double()
    if is_diagonal(moment):
        return weight * kept
    scale, correlation = correlations(moment)
    scaled = weight * scale
    change = torch.zeros_like(weight)
    inverse = regular_inverse(correlation)
    many = 2 * kept.sum(dim=1) > len(moment)
    direct = ~many if inverse is not None else torch.ones_like(many)
    if bool(direct.any()):
        rows = kept[direct]
        change[direct] = solve_in_pieces(rows, correlation, (scaled[direct] * ~rows) @ correlation)
    if inverse is not None and bool(many.any()):
        rows, (root, normal) = kept[many], correlations(inverse)
        multipliers = solve_in_pieces(~rows, normal, scaled[many] * ~rows / root) / root
        change[many] = -(multipliers @ inverse)
    return (weight + change / scale) * kept


def regular_inverse(moment: Tensor) -> Tensor | None:
    """The inverse of a moment (in, in) with ones on the diagonal; None where nearly singular."""
    factor, failed = torch.linalg.cholesky_ex(moment)
    if int(failed) or not float(factor.diagonal().square().min()) > REGULAR:
        return None
    return torch.cholesky_inverse(factor)


def correlations(moment: Tensor) -> tuple[Tensor, Tensor]:
    """The root mean square of each input, (in,), and the moment (in, in) of inputs divided by it.

    An input that is always zero is treated as one of mean square 1, uncorrelated with all others.
    """
    scale = moment.diagonal().sqrt()
    scale = scale.where(scale > 0, 1)
    correlation = moment / scale / scale[:, None]
    return scale, correlation.fill_diagonal_(1)


def solve_in_pieces(kept: Tensor, moment: Tensor, right: Tensor) -> Tensor:
    """For each row the solution of moment[S, S] x[S] = right[S] on its own kept places S.

    As many rows at a time as fit in memory, those of equally many places; it waits for numbers
    twice, however many there are.

    Args:
        kept: masks, shape (rows, in).
        moment: (in, in), with ones on its diagonal.
        right: (rows, in).

    Returns:
        (rows, in), 0 outside the masks.
    """
    solution = torch.zeros_like(right)
    order = kept.sum(dim=1).argsort(stable=True)
    counts = kept.sum(dim=1)[order].tolist()
    numbers = PIECE if moment.device.type == "cpu" else ACCELERATED_PIECE
    size = max(1, numbers // max(1, counts[-1]) ** 2)
    padded, singular = F.pad(moment, (0, 1, 0, 1)), torch.zeros_like(order, dtype=torch.bool)
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        # The systems of a piece are as large as its largest.
        width = max(1, counts[first : first + size][-1])
        systems = Systems.of(kept[rows], padded, right[rows], width)
        found, singular[rows] = systems.solution()
        solution[rows] = systems.spread(found)
    left = singular.nonzero()[:, 0]
    for rows in left.split(size) if len(left) else ():
        systems = Systems.of(kept[rows], padded, right[rows], max(1, counts[-1]))
        solution[rows] = systems.spread(systems.least_solution())
    return solution


@dataclass(frozen=True)
class Systems:
    """Linear systems on the kept places of some rows.

    Attributes:
        matrices: (rows, n, n), filled up with ones on the diagonal.
        wanted: (rows, n, 1).
        places: (rows, n) in a row; `width` where a system is filled up.
        width: of a row.
    """

    matrices: Tensor
    wanted: Tensor
    places: Tensor
    width: int

    @classmethod
    def of(cls, kept: Tensor, padded: Tensor, right: Tensor, most: int) -> Systems:
        """The systems of rows with at most `most` places.

        Args:
            kept, right: as of `solve_in_pieces`.
            padded: the moment with one more row and column of zeros, (in + 1, in + 1).
        """
        places = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        valid = kept.gather(1, places)
        places = places.where(valid, kept.shape[1])
        matrices = padded[places[:, :, None], places[:, None, :]]
        matrices.diagonal(dim1=1, dim2=2).add_(~valid)
        return cls(
            matrices, F.pad(right, (0, 1)).gather(1, places)[:, :, None], places, len(padded)
        )

    def solution(self) -> tuple[Tensor, Tensor]:
        """The solutions (rows, n, 1), and which of the systems are too near singular for them."""
        factor, failed = torch.linalg.cholesky_ex(self.matrices)
        found = torch.linalg.solve_triangular(factor, self.wanted, upper=False)
        found = torch.linalg.solve_triangular(factor.mT, found, upper=True)
        pivots = factor.diagonal(dim1=1, dim2=2).square().amin(dim=1)
        return found, (failed > 0) | ~(pivots > SINGULAR)

    def least_solution(self) -> Tensor:
        """The least-squares solutions of least length, (rows, n, 1)."""
        values, vectors = torch.linalg.eigh(self.matrices)
        regular = values > SINGULAR * values[:, -1:]
        inverse = torch.where(regular, 1 / values.where(regular, 1), 0)[:, :, None]
        return vectors @ (inverse * (vectors.mT @ self.wanted))

    def spread(self, found: Tensor) -> Tensor:
        """Solutions at their places in the rows, (rows, in)."""
        rows = found.new_zeros(len(found), self.width)
        return rows.scatter_(1, self.places, found[:, :, 0])[:, :-1]
