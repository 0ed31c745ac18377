"""Tucker-2: a convolution through few input and few output channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowrank.approximation.comparison import better_of, dense_unless_smaller, svd_within
from lowrank.approximation.kernel_tensor import KernelTensor, positions_of
from lowrank.decomposers.decomposer import Decomposer, Unfit
from lowrank.decomposers.truncated_svd import TruncatedSVD
from lowrank.factorizations import ChannelProduct, Dense, Factorization, Product
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import check_exactly_one, check_integer, check_ratio, pair_of, sizes_of
from lowrank.numerics.conjugate_gradients import descend
from lowrank.numerics.memo import memoised


@dataclass(frozen=True)
class Tucker2(Decomposer):
    """A k × k kernel as 1 × 1 to few channels, k × k between few, 1 × 1 to all.

    In the identity norm: tensorly's higher-order orthogonal iteration. In the other norms that is
    the start, on a kernel whitened by the moment averaged over positions. Then the input mixing (by
    steps of conjugate gradients) and the rest (exactly, by a truncated SVD) are updated in turn, so
    the error in the norm never grows. The result is a local optimum.

    It pays where the input channels of a kernel are as redundant as its outputs. With all input
    channels it is the truncated SVD of the view ``channel``, which is returned, with a note, where
    it is nearer at the same bytes. A weight that is no kernel gets that, too. For 3 × 3 kernels the
    truncated SVD of the view ``spatial`` is mostly nearer than either.

    Exactly one of `ranks` and `compression_ratio` is given.

    Args:
        ranks: channels that the small kernel (gives, takes), each at least 1.
        compression_ratio: of this matrix alone, in numbers; of all pairs of ranks that reach it,
            the one that keeps most of the kernel's energy before the iterations.
        iterations: in the norms from data, at least 0.
        kernel_size: of the convolution; `compress` fills it in.

    Source: Tucker, Psychometrika 31, 1966; De Lathauwer, De Moor & Vandewalle, SIAM J. Matrix
    Anal. 21(4), 2000 (HOOI); Kim et al., ICLR 2016 (two modes of a kernel).
    """

    family: ClassVar[str] = "low rank"
    norms: ClassVar = (Identity, Diagonal, Full)

    ranks: tuple[int, int] | None = None
    compression_ratio: float | None = None
    iterations: int = 10
    kernel_size: tuple[int, ...] = (1, 1)

    def __post_init__(self) -> None:
        options = {"ranks": self.ranks, "compression_ratio": self.compression_ratio}
        check_exactly_one("Tucker2", options)
        if self.compression_ratio is not None:
            check_ratio(self.compression_ratio)
        if self.ranks is not None:
            object.__setattr__(self, "ranks", pair_of("ranks", self.ranks))
        object.__setattr__(self, "kernel_size", sizes_of("kernel_size", self.kernel_size))
        check_integer("iterations", self.iterations, least=0)

    def for_kernel(self, size: tuple[int, ...]) -> Decomposer:
        return replace(self, kernel_size=size)

    def check_shape(self, weight: Tensor) -> None:
        if prod(self.kernel_size) == 1:
            self._svd.check_shape(weight)
            return
        positions = positions_of(weight, self.kernel_size)
        self._check_ranks(weight.shape[0], weight.shape[1] // positions, positions)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        if prod(self.kernel_size) == 1:
            return self._of_matrix(weight, norm)
        kernel = KernelTensor.of(weight, norm, self.kernel_size)
        tensor, root = kernel.whitened()
        ranks = self.ranks_for(weight, tensor)
        factor = torch.from_numpy(iterated(tensor.cpu(), ranks=ranks)).to(tensor)
        mixing = factor.T @ torch.linalg.pinv(root, rtol=1e-6)
        left, core = kernel.fit(mixing, ranks[0])
        for _ in range(0 if isinstance(norm, Identity) else self.iterations):
            mixing = descend(_slope(kernel, left @ core), mixing)
            left, core = kernel.fit(mixing, ranks[0])
        mixed = ChannelProduct(Dense(core), Dense(mixing), kernel.positions)
        form = dense_unless_smaller(weight, Product(Dense(left), mixed))
        return better_of(weight, norm, form, svd_within(weight, norm, form.nbytes))

    def ranks_for(self, weight: Tensor, tensor: Tensor) -> tuple[int, int]:
        """The ranks (out, in) that a kernel is given.

        Args:
            weight: (out, in · positions).
            tensor: it in the norm, (out, in, positions).
        """
        out, channels, positions = tensor.shape
        if self.ranks is not None:
            return self.ranks
        assert self.compression_ratio is not None
        kept = kept_energy(tensor.cpu()).to(tensor.device)
        given = torch.arange(1, out + 1, device=tensor.device)[:, None]
        taken = torch.arange(1, channels + 1, device=tensor.device)
        params = given * out + given * taken * positions + taken * channels
        fits = params * self.compression_ratio <= weight.numel()
        fits &= (given <= taken * positions) & (taken <= given * positions)
        best = int(kept.where(fits, -1).argmax())
        return best // channels + 1, best % channels + 1

    def _check_ranks(self, out: int, channels: int, positions: int) -> None:
        if self.ranks is not None:
            given, taken = self.ranks
            if given > min(out, taken * positions) or taken > min(channels, given * positions):
                raise Unfit(
                    f"ranks={self.ranks} do not fit a kernel of {out} x {channels} channels and "
                    f"{positions} positions: each is at most the number of its channels, and "
                    "neither more than the other has with its positions"
                )
            return
        assert self.compression_ratio is not None
        most = out * channels * positions / (out + positions + channels)
        if self.compression_ratio > most:
            raise Unfit(
                f"compression_ratio={self.compression_ratio} is out of reach for a kernel of "
                f"{out} x {channels} channels and {positions} positions: one channel each gives "
                f"{most:.3g}. Lower it, or leave this layer out with `where`.",
                nearest=replace(self, compression_ratio=None, ranks=(1, 1)),
            )

    @property
    def _svd(self) -> TruncatedSVD:
        """The method for a weight that is no kernel."""
        rank = None if self.ranks is None else min(self.ranks)
        return TruncatedSVD(rank, compression_ratio=self.compression_ratio, view="channel")

    def _of_matrix(self, weight: Tensor, norm: Norm) -> Factorization:
        form = self._svd.approximate(weight, norm)
        form.notes += ("no kernel: a truncated SVD",)
        return form


@memoised
def kept_energy(tensor: Tensor) -> Tensor:
    """The part of the squared norm in a higher-order SVD of each pair of ranks, (out, in)."""
    out, channels, _ = tensor.shape
    left = torch.linalg.svd(tensor.flatten(1))[0]
    right = torch.linalg.svd(tensor.transpose(0, 1).flatten(1))[0]
    core = torch.einsum("oip,or,is->rsp", tensor, left, right)
    return core.square().sum(dim=2).cumsum(dim=0).cumsum(dim=1)


@memoised
def iterated(tensor: Tensor, *, ranks: tuple[int, int]) -> Any:
    """The orthonormal factor (in, ranks[1]) of tensorly's partial Tucker decomposition."""
    from tensorly import backend_context  # type: ignore[attr-defined]
    from tensorly.decomposition import partial_tucker

    if not bool(tensor.any()):
        return torch.eye(tensor.shape[1], ranks[1], dtype=tensor.dtype).numpy()
    scaled = (tensor / tensor.abs().max()).numpy()
    with backend_context("numpy", local_threadsafe=True):
        (_, factors), _ = partial_tucker(scaled, list(ranks), modes=[0, 1], tol=1e-8)
    return factors[1]


def _slope(kernel: KernelTensor, core: Tensor) -> Any:
    """The gradient by the mixing (r, in) of the error of core (out, r · positions) behind it."""
    by_right, positions = kernel.slope(core), kernel.positions

    def gradient(mixing: Tensor) -> Tensor:
        full = by_right(kernel.spread(mixing))
        return torch.einsum("rpcp->rc", full.view(-1, positions, kernel.channels, positions))

    return gradient
