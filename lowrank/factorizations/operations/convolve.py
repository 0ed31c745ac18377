"""Convolutions with a kernel that is seen as a matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.factorizations.operations.operation import AxisSplit, Operation, T

KernelView = Literal["channel", "channels_last", "spatial"]
KERNEL_VIEWS: tuple[KernelView, ...] = ("channel", "channels_last", "spatial")


@dataclass(frozen=True)
class Convolve(Operation):
    """A 2-d convolution whose kernel (out, in/groups, kh, kw) is seen as a matrix.

    The view says which kernel axes are rows and which are columns:

    - ``channel``: rows are output channels, columns (in, kh, kw). A rank-r product runs as a
      kh × kw convolution to r channels and a 1 × 1 convolution to `out`.
    - ``channels_last``: the same with columns (kh, kw, in), so that neighbours in a row are the
      input channels at one position, as N:M kernels need them.
    - ``spatial``: rows are (out, kw), columns (in, kh). A rank-r product runs as a kh × 1
      convolution to r channels and a 1 × kw convolution to `out` (Jaderberg et al. 2014).

    With groups the rows of all groups are stacked in one matrix, as PyTorch stores them, so the
    right factor of a product is shared by the groups.

    Args:
        shared: how many consecutive groups of channels the whole matrix is applied to, each by
            itself; 1 for a layer, more for the right factor of a grouped convolution.

    Raises:
        ValueError: a view that does not exist, or numbers below 1 (padding: below 0).
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    view: KernelView = "channel"
    shared: int = 1

    def __post_init__(self) -> None:
        if self.view not in KERNEL_VIEWS:
            raise ValueError(f"view={self.view!r} must be one of {KERNEL_VIEWS}")
        sizes = (*self.kernel_size, *self.stride, *self.dilation, self.groups, self.shared)
        if min(sizes) < 1 or min(self.padding) < 0:
            raise ValueError(f"{self}: all numbers must be at least 1, padding at least 0")

    def matrix(self, kernel: Tensor) -> Tensor:
        """The matrix of a kernel (out, in/groups, kh, kw), contiguous."""
        if self.view == "spatial":
            kernel = kernel.permute(0, 3, 1, 2)
            return kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
        if self.view == "channels_last":
            kernel = kernel.permute(0, 2, 3, 1)
        return kernel.reshape(kernel.shape[0], -1)

    def kernel(self, matrix: Tensor) -> Tensor:
        """The kernel of a matrix: the inverse of `matrix`."""
        height, width = self.kernel_size
        rows, columns = matrix.shape
        if height == width == 1:  # All views are one.
            return matrix[:, :, None, None]
        if self.view == "spatial":
            split = matrix.reshape(rows // width, width, columns // height, height)
            return split.permute(0, 2, 3, 1)
        if self.view == "channels_last":
            split = matrix.reshape(rows, height, width, columns // (height * width))
            # Copied: strided so, it would make PyTorch run the convolution in another layout.
            return split.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
        return matrix.reshape(rows, columns // (height * width), height, width)

    def patches(self, x: Tensor) -> Tensor:
        """The vectors that the rows of a matrix of the view ``channel`` multiply.

        Args:
            x: shape (batch, channels, height, width).

        Returns:
            Shape (batch, groups · positions, in/groups · kh · kw). A matrix with groups has rows
            for each of them, which multiply the patches of their own group only.
        """
        columns = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
        split = columns.unflatten(1, (self.groups, -1)).transpose(2, 3)
        return split.flatten(1, 2)

    def moment(self, moment: Tensor) -> Tensor:
        """The second moment that goes with this view's matrix, from that of `patches`.

        In the view ``spatial`` the kernel's columns are rows of the matrix; the moment is the mean
        of theirs, and what inputs of different kernel columns have in common is left out.

        Args:
            moment: (n, n), or its diagonal (n,), n = in/groups · kh · kw.
        """
        places = torch.arange(len(moment), device=moment.device)
        # For each row of the matrix of one output, which entries of a patch its columns multiply.
        rows = self.matrix(places.view(1, -1, *self.kernel_size))
        if moment.ndim == 1:
            return torch.stack([moment[row] for row in rows]).mean(dim=0)
        return torch.stack([moment[row][:, row] for row in rows]).mean(dim=0)

    def apply(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        kernel = self.kernel(matrix)
        if self.shared == 1:
            return F.conv2d(x, kernel, bias, *self.geometry)
        # Each group of channels becomes an example of its own, and channels again afterwards.
        examples, channels = x.shape[:2]
        folded = x.reshape(examples * self.shared, channels // self.shared, *x.shape[2:])
        y = F.conv2d(folded, kernel, bias, *self.geometry)
        return y.reshape(examples, self.shared * y.shape[1], *y.shape[2:])

    def bind(self, matrix: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        if self.shared > 1:
            return super().bind(matrix, bias)
        kernel, geometry = self.kernel(matrix), self.geometry
        return lambda x: F.conv2d(x, kernel, bias, *geometry)

    @property
    def geometry(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
        """Stride, padding, dilation and groups, as `F.conv2d` takes them."""
        return self.stride, self.padding, self.dilation, self.groups

    def add_bias(self, y: Tensor, bias: Tensor | None) -> Tensor:
        return y if bias is None else y + bias[:, None, None]

    def order(self, factors: Sequence[T]) -> list[tuple[T, Operation]]:
        first, *middle, last = factors
        shared = self.shared * self.groups
        pointwise = Convolve((1, 1), view=self.view, shared=shared)
        if self.view == "spatial":
            right = replace(self, groups=1, shared=shared).along(0)
            left = self.along(1)
        else:
            right = replace(self, groups=1, shared=shared)
            left = Convolve((1, 1), groups=self.groups, view=self.view, shared=self.shared)
        return [(last, right), *((factor, pointwise) for factor in reversed(middle)), (first, left)]

    def split(self, heights: Sequence[int], widths: Sequence[int]) -> AxisSplit | None:
        rows, columns = self._positions
        whole = all(h % rows == 0 for h in heights) and all(w % columns == 0 for w in widths)
        # A convolution has at least one channel on either side.
        if (
            not whole
            or min(*heights, *widths) == 0
            or not self._is_by_channel
            or self.groups * self.shared > 1
        ):
            return None
        return AxisSplit(1, [width // columns for width in widths])

    def in_blocks(self, count: int, shape: tuple[int, int]) -> Operation | None:
        whole = all(n % k == 0 for n, k in zip(shape, self._positions, strict=True))
        if not whole or not self._is_by_channel or self.groups > 1:
            return None
        return replace(self, groups=count)

    def by_channel(self, positions: int) -> tuple[Operation, Operation] | None:
        height, width = self.kernel_size
        if self.view != "channel" or positions != height * width:
            return None
        return Convolve((1, 1), view=self.view, shared=self.shared * self.groups), self

    @property
    def _positions(self) -> tuple[int, int]:
        """Rows and columns of the matrix for each channel, where they are by channel."""
        height, width = self.kernel_size
        return (width, height) if self.view == "spatial" else (1, height * width)

    @property
    def _is_by_channel(self) -> bool:
        """Whether the rows and columns of one channel follow each other."""
        return self.view != "channels_last" or self.kernel_size == (1, 1)

    def along(self, axis: int) -> Convolve:
        """The part of this convolution along one spatial axis, 0 (height) or 1 (width)."""

        def keep(values: tuple[int, int], neutral: int) -> tuple[int, int]:
            return (values[0], neutral) if axis == 0 else (neutral, values[1])

        return replace(
            self,
            kernel_size=keep(self.kernel_size, 1),
            stride=keep(self.stride, 1),
            padding=keep(self.padding, 0),
            dilation=keep(self.dilation, 1),
        )
