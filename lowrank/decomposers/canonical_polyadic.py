"""CP: a kernel as a sum of outer products of an output, an input and a position vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.approximation.comparison import better_of, dense_unless_smaller, svd_within
from lowrank.approximation.kernel_tensor import KernelTensor, positions_of
from lowrank.decomposers.decomposer import Decomposer, Unfit
from lowrank.decomposers.truncated_svd import TruncatedSVD
from lowrank.factorizations import BlockDiagonal, ChannelProduct, Dense, Factorization, Product
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import check_exactly_one, check_integer, check_ratio, sizes_of
from lowrank.numerics.conjugate_gradients import descend
from lowrank.numerics.factors import equally_scaled, fitted
from lowrank.numerics.memo import memoised


@dataclass(frozen=True)
class CanonicalPolyadic(Decomposer):
    """A k × k kernel as 1 × 1 to `rank` channels, k × k on each by itself, 1 × 1 to all.

    K[o, i, p] ≈ Σ_r a[o, r] b[r, i] c[r, p], p a position of the kernel: the position is one mode,
    not two, because splitting it saves k² − 2k of out + in + k² numbers a rank and loses more. The
    rank may exceed the number of channels.

    In the identity norm: tensorly's alternating least squares. In the other norms that is the
    start, on a kernel whitened by the moment averaged over positions. Then the output vectors (by
    least squares) and the others (by steps of conjugate gradients) are updated in turn, so the
    error in the norm never grows. The result is a local optimum; the problem has none where terms
    that cancel each other grow without bound.

    It pays at high ratios, where a product of few channels is too coarse. A truncated SVD of the
    view ``channel`` is returned, with a note, where it is nearer at the same bytes, and for a
    weight that is no kernel.

    Exactly one of `rank` and `compression_ratio` is given.

    Args:
        rank: the number of outer products, at least 1.
        compression_ratio: the largest rank with which this matrix alone reaches this ratio, in
            numbers.
        iterations: of the alternation, at least 1.
        kernel_size: of the convolution; `compress` fills it in.

    Source: Carroll & Chang, Psychometrika 35, 1970; Harshman 1970; Lebedev et al., ICLR 2015
    (kernels); Astrid & Lee, BigComp 2017 (the position as one mode).
    """

    family: ClassVar[str] = "low rank"
    norms: ClassVar = (Identity, Diagonal, Full)

    rank: int | None = None
    compression_ratio: float | None = None
    iterations: int = 50
    kernel_size: tuple[int, ...] = (1, 1)

    def __post_init__(self) -> None:
        options = {"rank": self.rank, "compression_ratio": self.compression_ratio}
        check_exactly_one("CanonicalPolyadic", options)
        if self.rank is not None:
            check_integer("rank", self.rank, least=1)
        if self.compression_ratio is not None:
            check_ratio(self.compression_ratio)
        check_integer("iterations", self.iterations, least=1)
        object.__setattr__(self, "kernel_size", sizes_of("kernel_size", self.kernel_size))

    def for_kernel(self, size: tuple[int, ...]) -> Decomposer:
        return replace(self, kernel_size=size)

    def check_shape(self, weight: Tensor) -> None:
        if prod(self.kernel_size) == 1:
            self._svd.check_shape(weight)
        else:
            self.rank_for(weight, positions_of(weight, self.kernel_size))

    @property
    def _svd(self) -> TruncatedSVD:
        """The method for a weight that is no kernel."""
        return TruncatedSVD(self.rank, compression_ratio=self.compression_ratio, view="channel")

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        if prod(self.kernel_size) == 1:
            form = self._svd.approximate(weight, norm)
            form.notes += ("no kernel: a truncated SVD",)
            return form
        kernel = KernelTensor.of(weight, norm, self.kernel_size)
        rank = self.rank_for(weight, kernel.positions)
        tensor, root = kernel.whitened()
        found = alternated(tensor.cpu(), rank=rank, iterations=self.iterations)
        mixing = found[1].to(tensor).T @ torch.linalg.pinv(root, rtol=1e-6)
        filters = found[2].to(tensor).T.contiguous()
        left = fitted(kernel.weight, kernel.moment, outer(mixing, filters))
        for _ in range(0 if isinstance(norm, Identity) else self.iterations):
            slope = kernel.slope(left)
            mixing = descend(_by_mixing(slope, filters), mixing)
            filters = descend(_by_filters(slope, mixing), filters)
            left = fitted(kernel.weight, kernel.moment, outer(mixing, filters))
        lengths = filters.norm(dim=1, keepdim=True)
        left, mixing = equally_scaled(left, mixing * lengths)
        filters = filters / lengths.where(lengths > 0, 1)
        depthwise = BlockDiagonal(rank, Dense(filters))
        mixed = ChannelProduct(depthwise, Dense(mixing), kernel.positions)
        form = dense_unless_smaller(weight, Product(Dense(left), mixed))
        return better_of(weight, norm, form, svd_within(weight, norm, form.nbytes))

    def rank_for(self, weight: Tensor, positions: int) -> int:
        """The number of outer products that a weight (out, in · positions) is given.

        Raises:
            Unfit: even one misses `compression_ratio`.
        """
        if self.rank is not None:
            return self.rank
        assert self.compression_ratio is not None
        each = weight.shape[0] + weight.shape[1] // positions + positions
        rank = int(weight.numel() / (self.compression_ratio * each))
        if rank < 1:
            raise Unfit(
                f"compression_ratio={self.compression_ratio} is out of reach for a kernel of shape "
                f"{tuple(weight.shape)}: rank 1 gives {weight.numel() / each:.3g}. Lower it, or "
                "leave this layer out with `where`.",
                nearest=replace(self, compression_ratio=None, rank=1),
            )
        return rank


def outer(mixing: Tensor, filters: Tensor) -> Tensor:
    """b[r, i] c[r, p] as a matrix (rank, in · positions)."""
    return (mixing[:, :, None] * filters[:, None, :]).flatten(1)


@memoised
def alternated(tensor: Tensor, *, rank: int, iterations: int) -> list[Tensor]:
    """The factors (out, rank), (in, rank) and (positions, rank) of tensorly's decomposition."""
    from tensorly import backend_context  # type: ignore[attr-defined]
    from tensorly.cp_tensor import CPTensor
    from tensorly.decomposition import parafac

    start = [leading(tensor.movedim(mode, 0).flatten(1), rank) for mode in range(3)]
    if not bool(tensor.any()):
        return start
    scaled = (tensor / tensor.abs().max()).numpy()
    with backend_context("numpy", local_threadsafe=True):
        init = CPTensor((None, [factor.numpy() for factor in start]))
        # It accepts a decomposition as a start, too, though its signature does not say so.
        found = parafac(scaled, rank, n_iter_max=iterations, init=init, tol=1e-8)  # type: ignore
    return [torch.from_numpy(factor) for factor in found.factors]


def leading(unfolded: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors (n, rank), and random ones where n is too few."""
    vectors = torch.linalg.svd(unfolded, full_matrices=False)[0][:, :rank]
    generator = torch.Generator().manual_seed(0)
    more = torch.rand(len(vectors), rank - vectors.shape[1], generator=generator)
    return torch.cat([vectors, more.to(vectors)], dim=1)


def _by_mixing(slope: Callable[[Tensor], Tensor], filters: Tensor) -> Callable[[Tensor], Tensor]:
    def gradient(mixing: Tensor) -> Tensor:
        full = slope(outer(mixing, filters)).unflatten(1, (mixing.shape[1], -1))
        return torch.einsum("rip,rp->ri", full, filters)

    return gradient


def _by_filters(slope: Callable[[Tensor], Tensor], mixing: Tensor) -> Callable[[Tensor], Tensor]:
    def gradient(filters: Tensor) -> Tensor:
        full = slope(outer(mixing, filters)).unflatten(1, (mixing.shape[1], -1))
        return torch.einsum("rip,ri->rp", full, mixing)

    return gradient
