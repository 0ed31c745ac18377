"""Robust principal component analysis: low rank plus sparse, both sizes found from the weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from lowrank.approximation.comparison import better_than_svd
from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Dense, Factorization, Product, Sparse, Sum
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics import memo
from lowrank.numerics.checks import check_integer, check_number, check_one_of, check_positive
from lowrank.numerics.factors import equally_scaled

# Iterations after which the certificate is computed again, which costs half of one.
PERIOD = 3
# The first penalty in units of 1/‖W‖₂, and its growth from one iteration to the next.
FIRST, GROWTH = 1.25, 1.5


@dataclass(frozen=True)
class RobustPCA(Decomposer):
    """W = L + S with the least ‖L‖_* + λ ‖S‖_1, solved exactly and with a certificate.

    If W is a matrix of low rank whose entries are spread out, plus few entries at random places,
    both parts are found exactly, however large those entries are. The weights of trained networks
    are seldom of that kind: L then has high rank, S many non-zeros, and the layer, which would not
    be smaller, stays dense with a note that says so. To reach a size, use `LowRankPlusSparse`; this
    is to find out whether a weight has such parts at all.

    Convex, so the minimum is the only one, and a matrix Y with ‖Y‖₂ ≤ 1 and |Y| ≤ λ proves how near
    it is: no split has an objective below ⟨Y, W⟩. It iterates until the objective of L exceeds that
    bound by a share of at most `tolerance`, and the note states the share.

    In the diagonal norm A^{1/2} W B^{1/2} is split, and the parts are divided by these factors
    again, so that entries of little weight are not outliers. The full norm uses the diagonal of B:
    a root of all of B would not leave S sparse. As L + S is W up to the tolerance, its error is
    negligible in any norm; where the truncated SVD of the same bytes is even nearer, that is
    returned with a note.

    Args:
        sparse_weight: λ, above 0: the larger, the sparser S and the higher the rank of L;
            1/√max(out, in) if not given, for which exact recovery is proven.
        tolerance: ‖W − L − S‖_F / ‖W‖_F, of the scaled weight, and relative duality gap at which it
            stops, above 0. Works in float64.
        max_iterations: at least 1; each costs one SVD. 30 are usual for weights that have such
            parts, hundreds for others.
        view: as which matrix a convolution's kernel is seen (see `Convolve`).

    Raises:
        ValueError: not converged in `max_iterations`.

    Source: Candès, Li, Ma & Wright, Journal of the ACM 58(3), 2011 (theorem 1.1; the dual: section
    2); Yuan & Yang, Pacific Journal of Optimization 9(1), 2013 (alternating directions with a
    constant penalty, which converge to the minimum); Lin, Chen & Ma, arXiv 1009.5055, 2010 (a
    penalty that grows, and where it begins).
    """

    family: ClassVar[str] = "hybrid"
    norms: ClassVar[tuple[type[Norm], ...]] = (Identity, Diagonal, Full)

    sparse_weight: float | None = None
    tolerance: float = 1e-6
    max_iterations: int = 2000
    view: KernelView = "channel"

    @property
    def level(self) -> float | None:
        """The weight of the sparse part; None where the sides of the weight say it."""
        return self.sparse_weight

    def __post_init__(self) -> None:
        if self.sparse_weight is not None:
            check_positive("sparse_weight", self.sparse_weight)
        check_number("tolerance", self.tolerance, "lie in (0, 1)", lambda x: 0 < x < 1)
        check_integer("max_iterations", self.max_iterations, least=1)
        check_one_of("view", self.view, KERNEL_VIEWS)

    def kernel_view(self) -> KernelView:
        return self.view

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        rows = norm.row_weights(weight).sqrt()[:, None]
        columns = norm.second_moment(weight).diagonal().sqrt()
        scaled = rows * weight.double() * columns
        if not bool(scaled.any()):
            what = "what counts nothing in the norm" if bool(weight.any()) else "a zero weight"
            return Dense(weight.clone(), notes=(f"kept dense: {what} has no parts",))
        split = solve(
            scaled,
            sparse_weight=self.sparse_weight or max(weight.shape) ** -0.5,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        if max(split.residual, split.gap) > self.tolerance:
            raise ValueError(
                f"robust PCA of a weight of shape {tuple(weight.shape)} has not converged: after "
                f"max_iterations={self.max_iterations} ‖W − L − S‖/‖W‖ is {split.residual:.2g} and "
                f"the duality gap {split.gap:.2g}, wanted is tolerance={self.tolerance:g}. Raise "
                "either."
            )
        # Entries of weight zero are in no part.
        unscaled = [torch.where(scale > 0, 1 / scale, 0) for scale in (rows, columns)]
        form = form_of(split, *unscaled)
        form.notes = (f"least sum of the norms, up to a share of {max(split.gap, 0):.0e}",)
        return better_than_svd(weight, norm, form)


class LowRankAndSparse(NamedTuple):
    """The parts of a matrix, and how good they are.

    Attributes:
        left, right: (out, r) and (r, in); left @ right is L.
        sparse: S, (out, in).
        residual: ‖W − L − S‖ / ‖W‖.
        gap: by which share the objective of L and W − L can be above the least.
        iterations: how many it took, each with one SVD.
        reached: after how many the residual was at most the tolerance, 0 for none.
    """

    left: Tensor
    right: Tensor
    sparse: Tensor
    residual: float
    gap: float
    iterations: int
    reached: int


def form_of(split: LowRankAndSparse, rows: Tensor, columns: Tensor) -> Factorization:
    """The parts, each times these factors of the rows (out, 1) and columns (in,)."""
    terms: list[Factorization] = []
    if split.left.shape[1]:
        terms.append(Product(Dense(split.left * rows), Dense(split.right * columns)))
    if bool(split.sparse.any()):
        terms.append(Sparse.from_dense(split.sparse * rows * columns, split.sparse != 0))
    return Sum(*terms) if len(terms) > 1 else terms[0]


@memo.memoised
def solve(
    weight: Tensor,
    *,
    sparse_weight: float,
    tolerance: float,
    max_iterations: int,
    growth: float = GROWTH,
    bounded: bool = True,
) -> LowRankAndSparse:
    """The least ‖L‖_* + λ ‖S‖_1 with L + S a matrix that is not zero, float64.

    The penalty begins at 1.25/‖W‖₂ and grows in each iteration to out·in/(4 ‖W‖_1), at which it
    stays, and so the sum converges to the minimum: a penalty that grows without bound ends where it
    is. The start is near where the parts are large and few, which a constant penalty reaches in
    twice as many iterations.

    Args:
        growth: the factor, at least 1; 1 is the last penalty from the first iteration on.
        bounded: whether there is a last penalty. Without one the residual shrinks faster, and
            nothing says that the sum is the least.
    """
    last = weight.numel() / (4 * float(weight.abs().sum()))
    penalty = min(last, FIRST / spectral_norm(weight)) if growth > 1 else last
    multiplier, sparse = torch.zeros_like(weight), torch.zeros_like(weight)
    size, reached = weight.norm(), 0
    for iteration in range(1, max_iterations + 1):
        shifted = weight + multiplier / penalty
        left, right, nuclear = shrunk(shifted - sparse, 1 / penalty)
        low_rank = left @ right
        sparse = torch.nn.functional.softshrink(shifted - low_rank, sparse_weight / penalty)
        missing = weight - low_rank - sparse
        multiplier = multiplier + penalty * missing
        residual = float(missing.norm() / size)
        penalty = min(last if bounded else math.inf, growth * penalty)
        reached = reached or (iteration if residual <= tolerance else 0)
        is_due = reached and (iteration - reached) % PERIOD == 0
        if not is_due and iteration < max_iterations:
            continue
        objective = nuclear + sparse_weight * (weight - low_rank).abs().sum()
        gap = float(1 - lower_bound(weight, multiplier, sparse_weight) / objective)
        if max(residual, gap) <= tolerance:
            break
    left, right = equally_scaled(left, right)
    return LowRankAndSparse(left, right, sparse, residual, gap, iteration, reached)


def shrunk(matrix: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """The matrix (out, in) with its singular values less a threshold, those below it 0.

    From the eigenvectors of the Gram matrix of the smaller side, which take half the time of a
    singular value decomposition. A singular value s is off by ε ‖·‖₂² / s, which is nothing to a
    threshold above a millionth of the norm.

    Returns:
        left (out, r) and right (r, in), whose product it is; and the sum of its singular values.
    """
    if matrix.shape[0] < matrix.shape[1]:
        right, left, nuclear = shrunk(matrix.T, threshold)
        return left.T, right.T, nuclear
    squares, vectors = torch.linalg.eigh(matrix.T @ matrix)
    kept = squares > threshold**2
    values, vectors = squares[kept].sqrt(), vectors[:, kept]
    left = (matrix @ vectors) * (1 - threshold / values)
    return left, vectors.T, (values - threshold).sum()


def spectral_norm(matrix: Tensor) -> float:
    """‖·‖₂ of a matrix (out, in), float64, from the Gram matrix of its smaller side."""
    thin = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return math.sqrt(float(torch.linalg.eigvalsh(thin.T @ thin)[-1]))


def lower_bound(weight: Tensor, multiplier: Tensor, sparse_weight: float) -> Tensor:
    """A lower bound of ‖L‖_* + λ ‖W − L‖_1 for every L: ⟨Y, W⟩ for a Y with ‖Y‖₂ ≤ 1 and |Y| ≤ λ.

    Y is a matrix (out, in) made small enough. For then ‖L‖_* ≥ ⟨Y, L⟩ and λ ‖S‖_1 ≥ ⟨Y, S⟩.
    """
    largest = float(multiplier.abs().max()) / sparse_weight
    return (multiplier * weight).sum() / max(1.0, largest, spectral_norm(multiplier))
