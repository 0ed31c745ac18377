"""Robust principal component analysis: low rank plus sparse, both sizes found from the weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank import memo
from lowrank.decomposers import budget
from lowrank.decomposers.checks import check_integer, check_one_of, check_positive
from lowrank.decomposers.decomposer import Decomposer
from lowrank.decomposers.low_rank import truncated
from lowrank.factorizations import Dense, Factorization, Product, Sparse, Sum
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.norms import Norm


@dataclass(frozen=True)
class RobustPCA(Decomposer):
    """W = L + S with the least ‖L‖_* + λ ‖S‖_1, by the inexact augmented Lagrangian method.

    If W is a matrix of low rank whose entries are spread out, plus few entries at random places,
    both parts are found exactly, however large those entries are. The weights of trained networks
    are seldom of that kind: L then has high rank, S many non-zeros, and the layer, which would not
    be smaller, stays dense with a note that says so. To reach a size, use `LowRankPlusSparse`; this
    is to find out whether a weight has such parts at all. Convex, so the minimum is the only one;
    that the inexact method reaches it is observed and not proven, hence `max_iterations`.

    Args:
        sparse_weight: λ, above 0: the larger, the sparser S and the higher the rank of L;
            1/√max(out, in) if not given, for which exact recovery is proven.
        tolerance: ‖W − L − S‖_F / ‖W‖_F at which it stops, above 0. Works in float64.
        max_iterations: at least 1; each costs one SVD, about 30 are usual.
        view: as which matrix a convolution's kernel is seen (see `Convolve`).

    Raises:
        ValueError: not converged in `max_iterations`.

    Source: Candès, Li, Ma & Wright, Journal of the ACM 58(3), 2011 (theorem 1.1); Lin, Chen & Ma,
    arXiv:1009.5055, 2010, algorithm 5.
    """

    sparse_weight: float | None = None
    tolerance: float = 1e-8
    max_iterations: int = 200
    view: KernelView = "channel"

    def __post_init__(self) -> None:
        if self.sparse_weight is not None:
            check_positive("sparse_weight", self.sparse_weight)
        check_positive("tolerance", self.tolerance)
        check_integer("max_iterations", self.max_iterations, least=1)
        check_one_of("view", self.view, KERNEL_VIEWS)

    def kernel_view(self) -> KernelView:
        return self.view

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        if not bool(weight.any()):
            return Dense(weight.clone(), note="kept dense: a zero weight has no parts")
        left, right, sparse, residual = _inexact_alm(
            weight.double(),
            sparse_weight=self.sparse_weight or max(weight.shape) ** -0.5,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        if residual > self.tolerance:
            raise ValueError(
                f"robust PCA of a weight of shape {tuple(weight.shape)} has not converged: after "
                f"max_iterations={self.max_iterations} ‖W − L − S‖/‖W‖ is {residual:.2g}, wanted "
                f"is tolerance={self.tolerance:g}. Raise either."
            )
        terms: list[Factorization] = []
        if left.shape[1]:
            terms.append(Product(Dense(left.clone()), Dense(right.clone())))
        if bool(sparse.any()):
            terms.append(Sparse.from_dense(sparse, sparse != 0))
        form = Sum(*terms) if len(terms) > 1 else terms[0]
        return budget.dense_unless_smaller(weight, form)


@memo.memoised
def _inexact_alm(
    weight: Tensor, *, sparse_weight: float, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, float]:
    """left (out, r), right (r, in), the sparse part, and ‖W − L − S‖/‖W‖ at the end."""
    spectral = memo.svd(weight)[1][0]
    multiplier = weight / torch.maximum(spectral, weight.abs().max() / sparse_weight)
    penalty, ceiling = 1.25 / spectral, 1.25e7 / spectral
    sparse, residual = torch.zeros_like(weight), float("inf")
    for _ in range(max_iterations):
        shifted = weight + multiplier / penalty
        u, s, vh = torch.linalg.svd(shifted - sparse, full_matrices=False)
        s = s[s > 1 / penalty] - 1 / penalty
        left, right = truncated((u, s, vh), len(s))
        low_rank = left @ right
        sparse = torch.nn.functional.softshrink(shifted - low_rank, float(sparse_weight / penalty))
        missing = weight - low_rank - sparse
        residual = float(missing.norm() / weight.norm())
        if residual <= tolerance:
            break
        multiplier = multiplier + penalty * missing
        penalty = torch.minimum(penalty * 1.5, ceiling)
    return left, right, sparse, residual
