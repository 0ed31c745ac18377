"""Optimal values of the weights that pruning keeps: least squares for a given mask."""

from __future__ import annotations

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
    """`solve_on` for as many rows at a time as fit in memory, those of equally many places."""
    solution = torch.zeros_like(right)
    counts = kept.sum(dim=1)
    piece = PIECE if moment.device.type == "cpu" else ACCELERATED_PIECE
    padded = F.pad(moment, (0, 1, 0, 1))
    # The systems of a piece are as large as its largest.
    for rows in counts.argsort(stable=True).split(max(1, piece // max(1, int(counts.max())) ** 2)):
        solution[rows] = solve_on(kept[rows], padded, right[rows])
    return solution


def solve_on(kept: Tensor, padded: Tensor, right: Tensor) -> Tensor:
    """For each row the solution of moment[S, S] x[S] = right[S] on its own kept places S.

    Args:
        kept: masks, shape (rows, in).
        padded: the moment, with ones on its diagonal and one more row and column of zeros that pad
            the systems of rows with fewer survivors: (in + 1, in + 1).
        right: (rows, in).

    Returns:
        (rows, in), 0 outside the masks.
    """
    width = max(1, int(kept.sum(dim=1).max()))
    places = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    valid = kept.gather(1, places)
    places = places.where(valid, kept.shape[1])
    system = padded[places[:, :, None], places[:, None, :]]
    system.diagonal(dim1=1, dim2=2).add_(~valid)
    wanted = F.pad(right, (0, 1)).gather(1, places)[:, :, None]
    factor, failed = torch.linalg.cholesky_ex(system)
    solution = torch.linalg.solve_triangular(factor, wanted, upper=False)
    solution = torch.linalg.solve_triangular(factor.mT, solution, upper=True)
    pivots = factor.diagonal(dim1=1, dim2=2).square().amin(dim=1)
    singular = (failed > 0) | ~(pivots > SINGULAR)
    if bool(singular.any()):
        values, vectors = torch.linalg.eigh(system[singular])
        regular = values > SINGULAR * values[:, -1:]
        inverse = torch.where(regular, 1 / values.where(regular, 1), 0)[:, :, None]
        solution[singular] = vectors @ (inverse * (vectors.mT @ wanted[singular]))
    found = right.new_zeros(len(right), len(padded))
    return found.scatter_(1, places, solution[:, :, 0])[:, :-1]
