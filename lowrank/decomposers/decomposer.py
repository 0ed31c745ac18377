"""How a weight becomes a factorization: the interface of every method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import KernelView
from lowrank.norms import IDENTITY, Norm


@dataclass(frozen=True)
class Decomposer(ABC):
    """A method of compression with its hyperparameters; it knows matrices, never models.

    Laws: the weight is not changed; the factorization has the weight's shape, dtype and device; the
    same weight and hyperparameters give the same factorization.
    """

    def decompose(self, weight: Tensor, norm: Norm = IDENTITY) -> Factorization:
        """Approximate a weight of shape (out, in) in `norm`.

        Raises:
            ValueError: the weight is no finite floating-point matrix, or a hyperparameter does not
                fit its shape.
        """
        check_weight(weight)
        return self._decompose(weight.detach(), norm).to(device=weight.device, dtype=weight.dtype)

    @abstractmethod
    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        """Approximate a finite matrix; must not change it.

        Its dtype is that in which the values of the result are stored, and so counts where bytes
        do. Compute with `working(weight)`; what is returned is converted back.
        """

    def kernel_view(self) -> KernelView:
        """As which matrix this method sees a convolution's kernel (see `Convolve`)."""
        return "channel"


def working(matrix: Tensor) -> Tensor:
    """The matrix in the dtype to compute in: half precision has no kernels for SVD and loses digits
    elsewhere, so float32 stands in for it; float64 stays float64."""
    return matrix.to(torch.promote_types(matrix.dtype, torch.float32))


def check_weight(weight: Tensor) -> None:
    """Raise ValueError unless `weight` is a finite, non-empty floating-point matrix."""
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"a weight must be a non-empty matrix, not of shape {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise ValueError(f"a weight must be floating point, not {weight.dtype}")
    # A sum is finite only if all its terms are, and 20 times faster to check; one that overflows
    # decides nothing.
    if not bool(weight.sum().isfinite()) and not bool(weight.isfinite().all()):
        bad = int((~torch.isfinite(weight)).sum())
        raise ValueError(
            f"{bad} of {weight.numel()} values of a weight of shape {tuple(weight.shape)} are NaN "
            "or infinite; only finite weights can be compressed. Check the checkpoint."
        )


def check_rank(rank: int, weight: Tensor) -> None:
    """Raise ValueError unless a weight of shape (out, in) has factors of this rank."""
    if not (isinstance(rank, int) and 1 <= rank <= min(weight.shape)):
        raise ValueError(
            f"rank={rank} does not fit a weight of shape {tuple(weight.shape)}: it must lie in "
            f"1..{min(weight.shape)} and be an integer. Change it, or leave this layer out with "
            "`where`."
        )
