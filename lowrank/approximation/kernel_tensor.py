"""A convolution's kernel as a tensor (out, in, positions), and least squares on parts of it."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from lowrank.approximation.low_rank import nearest
from lowrank.norms import Full, Norm, square_root
from lowrank.numerics.factors import fitted


class KernelTensor(NamedTuple):
    """The kernel of a convolution as a tensor, and the norm in which its error counts.

    Attributes:
        weight: (out, in · positions), float64, columns (channel, position).
        moment: B, of the same columns, float64.
        rows: the diagonal of A, shape (out,), float64.
        positions: of the kernel, the product of its sizes.
    """

    weight: Tensor
    moment: Tensor
    rows: Tensor
    positions: int

    @classmethod
    def of(cls, weight: Tensor, norm: Norm, size: tuple[int, ...]) -> KernelTensor:
        """A weight of the view ``channel``.

        Raises:
            ValueError: columns that are not those of a kernel of that size.
        """
        positions = positions_of(weight, size)
        weight = weight.double()
        rows = norm.row_weights(weight).expand(len(weight))
        return cls(weight, norm.second_moment(weight), rows, positions)

    @property
    def channels(self) -> int:
        """The number of input channels."""
        return self.weight.shape[1] // self.positions

    def whitened(self) -> tuple[Tensor, Tensor]:
        """The whitened kernel (out, in, positions), by the moment averaged over positions, and R
        (in, in), which multiplied its channels."""
        moment = self.moment.view(self.channels, self.positions, self.channels, self.positions)
        root = square_root(torch.einsum("ipjp->ij", moment) / self.positions)
        tensor = self.weight.unflatten(1, (self.channels, self.positions))
        return torch.einsum("oip,ij,o->ojp", tensor, root, self.rows.sqrt()), root

    def spread(self, mixing: Tensor) -> Tensor:
        """mixing ⊗ 1, shape (r · positions, in · positions), of a mixing (r, in)."""
        return torch.kron(mixing, torch.eye(self.positions).to(mixing))

    def fit(self, mixing: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """The left (out, rank) and core (rank, r · positions) of least error for a given mixing
        (r, in): exact, by a truncated SVD."""
        right = self.spread(mixing)
        moment = right @ self.moment @ right.T
        moment = (moment + moment.T) / 2
        best = fitted(self.weight, self.moment, right)
        left, core, _ = nearest(best, rank, Full(moment, self.rows))
        return left, core

    def slope(self, left: Tensor) -> Callable[[Tensor], Tensor]:
        """The gradient of half the squared error of left @ right by right, as a function of it.

        Args:
            left: (out, k); the gradient is (k, in · positions).
        """
        weighted = left.T * self.rows
        curvature, wanted = weighted @ left, weighted @ self.weight
        return lambda right: (curvature @ right - wanted) @ self.moment


def positions_of(weight: Tensor, size: tuple[int, ...]) -> int:
    """The positions of a kernel of that size, seen as a matrix by channel.

    Raises:
        ValueError: its columns are not those of a kernel of that size.
    """
    positions = prod(size)
    if weight.shape[1] % positions:
        raise ValueError(
            f"the {weight.shape[1]} columns of a weight are not those of kernels of "
            f"{' x '.join(map(str, size))}: kernel_size is for convolutions, seen by channel"
        )
    return positions
