"""Truncated singular value decomposition: the best matrix of a given rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.approximation.low_rank import nearest, spectrum
from lowrank.decomposers.decomposer import Decomposer, Unfit, check_rank
from lowrank.factorizations import Dense, Factorization, Product
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.norms import IDENTITY, Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import (
    check_exactly_one,
    check_integer,
    check_number,
    check_one_of,
    check_ratio,
)
from lowrank.numerics.factors import factored_params, is_smaller


@dataclass(frozen=True)
class TruncatedSVD(Decomposer):
    """W ≈ left @ right, keeping the largest singular values.

    No matrix of that rank is closer to W in Frobenius or spectral norm, and the errors are known
    beforehand: sqrt(s[rank]² + s[rank+1]² + …) and s[rank] (s counted from 0). In a norm that comes
    from data the same holds of the whitened weight A^{1/2} W B^{1/2}, whose singular values then
    are s; the optimum in it is computed without an inverse of B and right where B is singular:

    - `Diagonal`: ASVD scales the inputs by a power of their mean magnitude, FWSVD by the Fisher
      information of their weights.
    - `Full`: the error of the layer's outputs is the least of all matrices of that rank. SVD-LLM
      (by a Cholesky factor of B) and DRONE (by an SVD of the inputs) are two ways to this optimum.

    A factored layer stores rank · (out + in) numbers, so where rank ≥ out · in / (out + in) it
    would not be smaller: such a layer stays dense, and the note of its factorization says so.

    Exactly one of `rank`, `energy` and `compression_ratio` is given.

    Args:
        rank: singular values kept, 1 ≤ rank ≤ min(out, in).
        energy: the smallest rank whose singular values hold this share of Σ s², the squared norm
            of the weight, in (0, 1].
        compression_ratio: the largest rank with out · in / (rank · (out + in)) at least this, the
            ratio of this matrix alone in numbers, as papers count; at least 1. In bytes it is that
            where factors and weight are stored in the same dtype.
        view: as which matrix a convolution's kernel is factored (see `Convolve`). The spatial split
            keeps far more of a 3 × 3 network's accuracy at the same size.

    Source: Eckart & Young, Psychometrika 1(3), 1936 (Frobenius); Mirsky, Quarterly Journal of
    Mathematics 11(1), 1960 (spectral). Norms: Hsu et al., ICLR 2022 (FWSVD); Yuan et al.,
    arXiv:2312.05821 (ASVD); Chen et al., NeurIPS 2021 (DRONE); Wang et al., ICLR 2025 (SVD-LLM).
    Kernels: Jaderberg et al., BMVC 2014 (spatial), Denton et al., NeurIPS 2014 (channel).
    """

    family: ClassVar[str] = "low rank"
    norms: ClassVar = (Identity, Diagonal, Full)

    rank: int | None = None
    energy: float | None = None
    compression_ratio: float | None = None
    view: KernelView = "spatial"

    def __post_init__(self) -> None:
        names = ("rank", "energy", "compression_ratio")
        check_exactly_one("TruncatedSVD", {name: getattr(self, name) for name in names})
        if self.rank is not None:
            check_integer("rank", self.rank, least=1)
        if self.energy is not None:
            check_number("energy", self.energy, "lie in (0, 1]", lambda x: 0 < x <= 1)
        if self.compression_ratio is not None:
            check_ratio(self.compression_ratio)
        check_one_of("view", self.view, KERNEL_VIEWS)

    def kernel_view(self) -> KernelView:
        return self.view

    def check_shape(self, weight: Tensor) -> None:
        if self.energy is None:
            self.rank_for(weight)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        rank = self.rank_for(weight, norm)
        if not is_smaller(weight.shape, rank):
            kept = (
                f"kept dense: rank {rank} needs {factored_params(weight.shape, rank)} params, "
                f"dense has {weight.numel()}"
            )
            return Dense(weight.clone(), notes=(kept,))
        left, right, notes = nearest(weight, rank, norm)
        return Product(Dense(left), Dense(right), notes=notes)

    def rank_for(self, weight: Tensor, norm: Norm = IDENTITY) -> int:
        """The rank that this decomposer gives a weight of shape (out, in).

        Raises:
            Unfit: `rank` does not fit the shape, or even rank 1 misses `compression_ratio`.
        """
        out, inner = weight.shape
        if self.rank is not None:
            check_rank(self.rank, weight)
            return self.rank
        if self.energy is not None:
            energy = spectrum(weight, norm).square().cumsum(0)
            # The last value and not 1, which rounding may make unreachable.
            wanted = self.energy * energy[-1]
            return min(int(torch.searchsorted(energy, wanted)) + 1, min(out, inner))
        assert self.compression_ratio is not None
        # One more than the rounded quotient, if that still reaches the ratio.
        rank = int(out * inner / (self.compression_ratio * (out + inner))) + 1
        if out * inner / (rank * (out + inner)) < self.compression_ratio:
            rank -= 1
        if rank < 1:
            raise Unfit(
                f"compression_ratio={self.compression_ratio} is out of reach for a weight of shape "
                f"({out}, {inner}): rank 1 gives {out * inner / (out + inner):.3g}. Lower it, or "
                "leave this layer out with `where`.",
                nearest=replace(self, compression_ratio=None, rank=1),
            )
        return rank
