"""Leading singular vectors by the fastest route whose error is provably near the optimum.

The eigenvectors of the Gram matrix of a weight (that of its smaller side) are its singular vectors,
and take a fraction of the time of a singular value decomposition. But squaring halves the digits.
So an a posteriori bound, which does not need the optimum, checks the result, and where the error
may be too far from the optimum the next more accurate route is taken: float32, float64,
`torch.linalg.svd` in float64. (Randomised methods do not reach the tolerance on the slowly falling
spectra of trained weights.)

The check. Let V be the vectors found, H = Vᵀ Wᵀ W V, d its diagonal, descending, and E the rest of
it. The first r of them miss T = d_{r+1} + d_{r+2} + … of the squared norm, the best matrix of rank
r misses T − x with x = (the sum of the r largest eigenvalues of H) − d_1 − … − d_r. By duality that
sum is at most r z + tr S for every number z and every positive semi-definite S that is not below
H − z. Take z half-way between d_r and d_{r+1}, and any κ > 0. If E, in units of the roots of
|d_i − z| + κ for its rows and columns, has a norm of at most 1/4, then the S that pays for each
E_ij across the boundary with the one of its two columns that is farther from z shows that

    x  ≤  Σ_{i ≤ r < j} 4 E_ij² / max(d_i − d_j, 4 κ)  +  Σ_i max(0, 5/4 κ − 3/4 |d_i − z|),

which is about four times what perturbation theory says that x is, whether or not values lie close.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lowrank.numerics import memo

# Largest excess over the least Frobenius error, as a share of it.
TOLERANCE = 1e-6

# Smaller side below which a singular value decomposition costs as little, and above which float32
# is seldom accurate enough.
SMALL, LARGE = 384, 4096

# Neighbouring vectors whose images are made orthogonal again after the eigen-decomposition.
WINDOW = 32

# Rows that are worked on together, few enough to stay in the cache.
ROWS = 128

# κ as a share of the tolerated excess.
NEAR = 0.1

# The number of random vectors that measure orthogonality, and the safety factor for so few.
PROBES, SAFETY = 8, 4.0


class Spectral(NamedTuple):
    """W ≈ u diag(s) vh; `excess[r]` bounds the error of the leading part of rank r.

    Attributes:
        u, s, vh: shapes (out, k), (k,), (k, in) with k = min(out, in), s descending. The vectors
            of the smaller side are orthonormal; `basis` makes those of the left so.
        excess: for each rank 0..k an upper bound of how much its error exceeds the least one, as a
            share of that; float64, shape (k + 1,), infinite where nothing is known.
    """

    u: Tensor
    s: Tensor
    vh: Tensor
    excess: Tensor

    def basis(self, rank: int) -> Tensor:
        """Orthonormal columns that span the first left vectors, (out, rank)."""
        leading = self.u[:, :rank]
        if len(self.u) <= self.vh.shape[1]:
            return leading
        overlap = leading.T @ leading
        missing = overlap - torch.eye(rank, dtype=overlap.dtype, device=overlap.device)
        # Vectors that are nearly orthogonal lose no digits by a Cholesky factor.
        if float(torch.linalg.matrix_norm(missing)) < 0.1:
            factor = torch.linalg.cholesky(overlap)
            return torch.linalg.solve_triangular(factor, leading.T, upper=False).T
        return torch.linalg.qr(leading)[0]


class Leading(NamedTuple):
    """The singular vectors, and notes on how they were found."""

    found: Spectral
    notes: tuple[str, ...] = ()


def leading(matrix: Tensor, rank: int) -> Leading:
    """Singular vectors of which the first `rank` give the least error of that rank, to `TOLERANCE`.

    One analysis serves all ranks for which it is accurate enough; memoised. A float32 matrix has no
    information below its own rounding errors: where the least error is no larger than they are,
    the float64 route is accepted.

    Args:
        matrix: (out, in), float32 or float64.
        rank: 0..min(out, in).
    """
    notes: tuple[str, ...] = ()
    for route in routes(matrix):
        found = analysis(matrix, route=route)
        excess = float(found.excess[rank])
        if excess <= TOLERANCE:
            break
        notes = (
            f"{route} Gram matrix not taken: its excess over the least error may be {excess:.0e}",
        )
    return Leading(found, notes)


def singular_values(matrix: Tensor, rank: int) -> Tensor:
    """All singular values of a matrix (out, in), descending, float64, (min(out, in),); memoised.

    By the fastest route whose rests Σ s[r:]², for each r up to `rank`, are the least squared errors
    to a share of 2 · `TOLERANCE`; the analysis is that of `leading`.
    """
    for route in routes(matrix):
        found = analysis(matrix, route=route)
        if bool((found.excess[: rank + 1] <= TOLERANCE).all()):
            break
    return found.s.double()


def routes(matrix: Tensor) -> tuple[str, ...]:
    """The ways to singular vectors that are worth trying, the fastest first; the last is exact."""
    if min(matrix.shape) < SMALL or not bool(matrix.any()):
        return ("svd",)
    if matrix.dtype == torch.float64 or min(matrix.shape) > LARGE:
        return ("float64", "svd")
    return ("float32", "float64", "svd")


@memo.memoised
def analysis(matrix: Tensor, *, route: str) -> Spectral:
    """The singular vectors of a matrix (out, in) by one of the `routes`, in its own dtype."""
    tall = len(matrix) > matrix.shape[1]
    side = matrix if tall else matrix.T
    if route == "svd":  # Of the wide one it takes several times as long.
        left, s, right = torch.linalg.svd(side.double(), full_matrices=False)
        excess = s.new_zeros(len(s) + 1, dtype=torch.float64)
    else:
        # By a power of two, so that no square overflows or vanishes.
        scale = 2.0 ** int(torch.frexp(matrix.abs().max()).exponent)
        images, right, excess = by_gram(side.to(getattr(torch, route)) / scale, matrix.dtype)
        s = images.norm(dim=1)
        left, s = (images / s.where(s > 0, 1)[:, None]).T, s * scale
    parts = (left, s, right) if tall else (right.T, s, left.T)
    u, s, vh = (part.to(matrix.dtype).contiguous() for part in parts)
    return Spectral(u, s, vh, excess)


def by_gram(side: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(W V)ᵀ (n, m) and Vᵀ (n, n) for a tall matrix W, and bounds of the excess for ranks 0..n.

    Args:
        side: W, (m, n), of about unit size.
        dtype: of the matrix that is approximated: errors below its precision are as good as none.
    """
    vectors = torch.linalg.eigh(side.T @ side)[1].T.flip(0)
    images = vectors @ side.T
    if side.dtype == torch.float32:
        orthogonalise_images(images, vectors)
    order = images.norm(dim=1).argsort(descending=True, stable=True)
    images, vectors = images[order], vectors[order]
    floor = torch.finfo(dtype).eps if dtype != side.dtype else 0.0
    useful = side.numel() // sum(side.shape)
    excess = torch.full((len(vectors) + 1,), torch.inf, dtype=torch.float64, device=side.device)
    # The check that costs nothing is never enough in float32.
    for check in (by_sum, by_pairs) if side.dtype == torch.float64 else (by_pairs,):
        bound = check(images, useful) + not_orthogonal(images, vectors)
        excess = torch.minimum(excess, as_share(bound, images, floor))
        if bool((excess[: useful + 1] <= TOLERANCE).all()):
            break
    return images, vectors, excess


def as_share(bound: Tensor, images: Tensor, floor: float) -> Tensor:
    """The excess of the error over the least one from that of their squares, both (n + 1,)."""
    missed = rest(images.square().sum(dim=1).double())
    share = torch.where(bound > 0, bound / (2 * (missed - bound).clamp_min(0)), 0)
    return share.where(missed + bound > floor**2 * missed[0], 0)


def orthogonalise_images(images: Tensor, vectors: Tensor) -> None:
    """Rotate neighbouring vectors, in place, so that their images are orthogonal.

    An eigen-solver mixes the vectors of eigenvalues that differ by a few rounding errors of the
    largest one. The Gram matrix of their images still separates the small ones among them: its
    diagonal blocks are diagonalised in two rounds, the second across the borders of the first.

    Args:
        images: (W V)ᵀ, (n, m).
        vectors: Vᵀ, (n, n).
    """
    for start in (0, WINDOW // 2):
        blocks = max(0, len(vectors) - start) // WINDOW
        inner = slice(start, start + blocks * WINDOW)
        parts = [x[inner].view(blocks, WINDOW, x.shape[1]) for x in (images, vectors)]
        turns = torch.linalg.eigh(parts[0] @ parts[0].mT)[1].mT
        for part in parts:
            part.copy_(turns @ part)


def by_pairs(images: Tensor, useful: int) -> Tensor:
    """The bound of x at the top of this module for ranks 0..n, (n + 1,), float64.

    Args:
        images: (W V)ᵀ, (n, m), longest first.
        useful: the largest rank for which it is computed; infinite beyond.
    """
    gram = images @ images.T
    values = gram.diagonal().clone()
    squares = gram.fill_diagonal_(0).square_()
    tiny = torch.finfo(values.dtype).tiny ** 0.25
    kappa = (NEAR * TOLERANCE * rest(values.double())).to(values.dtype).clamp_min(tiny)
    middles = (values[:-1] + values[1:]) / 2
    bound = across(squares, values, kappa)
    bound[useful + 1 :] = torch.inf
    for ranks in torch.arange(1, min(useful, len(middles)) + 1, device=values.device).split(ROWS):
        near = kappa[ranks, None]
        distances = (values - middles[ranks - 1, None]).abs_()
        bound[ranks] += (1.25 * near - 0.75 * distances).clamp_min_(0).sum(dim=1)
        weights = distances.add_(near).reciprocal_()
        norms = torch.linalg.vecdot(weights @ squares, weights)
        bound[ranks] += torch.where(norms <= 1 / 16, 0.0, torch.inf)
    return bound


def across(squares: Tensor, values: Tensor, kappa: Tensor) -> Tensor:
    """Σ_{i ≤ r < j} 4 E_ij² / max(d_i − d_j, 4 κ) for r = 0..n, float64, κ that of r = j − 1.

    κ falls with r, so that it is nowhere more than that of r itself.

    Args:
        squares: E², (n, n), zero on the diagonal.
        values: d, (n,).
        kappa: (n + 1,).
    """
    change = values.new_zeros(len(values) + 1, dtype=torch.float64)
    for first in range(0, len(values), ROWS):
        last = min(first + ROWS, len(values))
        gaps = torch.maximum(values[first:last, None] - values[first:], 4 * kappa[first:-1])
        costs = torch.div(squares[first:last, first:], gaps, out=gaps).triu_(1)
        change[first + 1 : last + 1] += 4 * costs.sum(dim=1)
        change[first + 1 :] -= 4 * costs.sum(dim=0)
    return change.cumsum(0).clamp_min(0)


def by_sum(images: Tensor, useful: int) -> Tensor:
    """A bound of x for ranks 0..n, (n + 1,), float64, without knowing the pairs.

    By Hoffman and Wielandt the values of H and d differ by no more than ‖E‖_F, so that x ≤ √r ‖E‖_F
    and x ≤ √(n − r) ‖E‖_F; random vectors measure that norm.
    """
    del useful  # It costs no more for all.
    columns = len(images)
    random, values = probes(columns, images), images.square().sum(dim=1, keepdim=True)
    others = images @ (images.T @ random) - values * random
    ranks = torch.arange(columns + 1, dtype=torch.float64, device=images.device)
    return torch.minimum(ranks, columns - ranks).sqrt() * mean_square(others) ** 0.5


def not_orthogonal(images: Tensor, vectors: Tensor) -> float:
    """A bound of ‖W V (Vᵀ V − 1)‖²_F, which V adds to the squared error at any rank."""
    random = probes(len(vectors), vectors)
    return mean_square(images.T @ (vectors @ (vectors.T @ random) - random))


def probes(size: int, like: Tensor) -> Tensor:
    """Random vectors (size, PROBES), the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, PROBES, generator=generator, dtype=torch.float64).to(like)


def mean_square(products: Tensor) -> float:
    """An upper estimate of ‖M‖²_F from products M x with random vectors, (m, PROBES)."""
    return SAFETY * float(products.square().sum(dtype=torch.float64)) / PROBES


def rest(energy: Tensor) -> Tensor:
    """The rest of a sum without its first 0, 1, … n numbers, (n + 1,)."""
    return torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])
