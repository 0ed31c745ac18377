"""Convolutions along any number of axes, with a kernel that is seen as a matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.factorizations.operations.operation import AxisSplit, Operation, T

KernelView = Literal["channel", "channels_last", "spatial"]
KERNEL_VIEWS: tuple[KernelView, ...] = ("channel", "channels_last", "spatial")
CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


@dataclass(frozen=True)
class Convolve(Operation):
    """A convolution along one to three axes, whose kernel (out, in/groups, …) is seen as a matrix.

    The view says which kernel axes are rows and which are columns:

    - ``channel``: rows are output channels, columns (in, positions). A rank-r product runs as a
      convolution of the same size to r channels and a pointwise convolution to `out`.
    - ``channels_last``: the same with columns (positions, in), so that neighbours in a row are the
      input channels at one position, as N:M kernels need them.
    - ``spatial``: rows are (out, later axes), columns (in, first axis). A rank-r product runs as a
      convolution along the first axis to r channels and one along the others to `out`: of a kernel
      kh × kw as kh × 1 and 1 × kw (Jaderberg et al. 2014). With one axis it is the view
      ``channel``.

    With groups the rows of all groups are stacked in one matrix, as PyTorch stores them, so the
    right factor of a product is shared by the groups.

    A transposed convolution, whose kernel PyTorch stores as (in, out/groups, …), is the same with
    the kernel's channels exchanged: a row of its matrix makes an output channel, from the inputs
    that reach a position.

    Args:
        kernel_size: (height, width) with two axes; the tuples after it have as many numbers.
        stride, padding, dilation: 1, 0 and 1 along each axis if not given.
        shared: how many consecutive groups of channels the whole matrix is applied to, each by
            itself; 1 for a layer, more for the right factor of a grouped convolution.
        output_padding: of a transposed convolution; None for an ordinary one.

    Raises:
        ValueError: a view that does not exist, numbers below 1 (paddings: below 0), or tuples of
            different lengths, or of none of 1 to 3.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    view: KernelView = "channel"
    shared: int = 1
    output_padding: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.view not in KERNEL_VIEWS:
            raise ValueError(f"view={self.view!r} must be one of {KERNEL_VIEWS}")
        for name, neutral in (("stride", 1), ("padding", 0), ("dilation", 1)):
            object.__setattr__(self, name, getattr(self, name) or (neutral,) * self.axes)
        paddings = (self.padding, self.output_padding or (0,) * self.axes)
        lengths = {len(values) for values in (self.stride, self.dilation, *paddings)}
        if self.axes not in CONVOLVE or lengths != {self.axes}:
            raise ValueError(f"{self}: one number for each of 1 to 3 axes, of all the same")
        sizes = (*self.kernel_size, *self.stride, *self.dilation, self.groups, self.shared)
        if min(sizes) < 1 or min(min(values) for values in paddings) < 0:
            raise ValueError(f"{self}: all numbers must be at least 1, padding at least 0")

    @property
    def axes(self) -> int:
        """The number of axes along which it convolves."""
        return len(self.kernel_size)

    @property
    def positions(self) -> int:
        """The positions of the kernel."""
        return math.prod(self.kernel_size)

    def matrix(self, kernel: Tensor) -> Tensor:
        """The matrix of a kernel as PyTorch stores it, contiguous."""
        return self._rows(self._exchanged(kernel))

    def kernel(self, matrix: Tensor) -> Tensor:
        """The kernel of a matrix: the inverse of `matrix`."""
        return self._exchanged(self._outputs_first(matrix))

    def _rows(self, kernel: Tensor) -> Tensor:
        """The matrix of a kernel (out, in/groups, …)."""
        if self.view == "spatial":
            kernel = kernel.movedim((0, 1, 2), (0, -2, -1))
            return kernel.reshape(math.prod(kernel.shape[:-2]), -1)
        if self.view == "channels_last":
            kernel = kernel.movedim(1, -1)
        return kernel.reshape(kernel.shape[0], -1)

    def _outputs_first(self, matrix: Tensor) -> Tensor:
        """The kernel (out, in/groups, …) of a matrix: the inverse of `_rows`."""
        first, *later = self.kernel_size
        rows, columns = matrix.shape
        if self.positions == 1:  # All views are one.
            return matrix[(..., *(None,) * self.axes)]
        if self.view == "spatial":
            out = rows // math.prod(later)
            split = matrix.reshape(out, *later, columns // first, first)
            return split.movedim((0, -2, -1), (0, 1, 2))
        if self.view == "channels_last":
            split = matrix.reshape(rows, *self.kernel_size, columns // self.positions)
            # Copied: strided so, it would make PyTorch run the convolution in another layout.
            return split.movedim(-1, 1).clone(memory_format=torch.contiguous_format)
        return matrix.reshape(rows, columns // self.positions, *self.kernel_size)

    def _exchanged(self, kernel: Tensor) -> Tensor:
        """A kernel with inputs and outputs of each group exchanged, if it is transposed."""
        if self.output_padding is None:
            return kernel
        grouped = kernel.unflatten(0, (self.groups, -1)).transpose(1, 2)
        return grouped.flatten(0, 1).contiguous()

    def patches(self, x: Tensor) -> Tensor:
        """The vectors that the rows of a matrix of the view ``channel`` multiply.

        Args:
            x: shape (batch, channels, …).

        Returns:
            Shape (batch, groups · positions of the output, in/groups · positions of the kernel). A
            matrix with groups has rows for each of them, which multiply the patches of their own
            group only.
        """
        stride, padding = self.stride, [(pad, pad) for pad in self.padding]
        if self.output_padding is not None:
            x, stride, padding = self._stretched(x)
        x = F.pad(x, [pad for pair in reversed(padding) for pad in pair])
        for axis, size in enumerate(self.kernel_size, start=2):
            dilation = self.dilation[axis - 2]
            x = x.unfold(axis, (size - 1) * dilation + 1, stride[axis - 2])[..., ::dilation]
        if self.output_padding is not None:
            # What reaches a position from before it is multiplied by the kernel's later numbers.
            x = x.flip(list(range(-self.axes, 0)))
        split = x.unflatten(1, (self.groups, -1)).movedim(2, -self.axes - 1)
        return split.flatten(-self.axes - 1).flatten(1, -2)

    def _stretched(self, x: Tensor) -> tuple[Tensor, tuple[int, ...], list[tuple[int, int]]]:
        """Inputs, strides and padding of the convolution that a transposed one is."""
        assert self.output_padding is not None
        sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], self.stride, strict=True)]
        wide = x.new_zeros(*x.shape[:2], *sizes)
        wide[(..., *(slice(None, None, s) for s in self.stride))] = x
        reach = [(k - 1) * d for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        before = [far - pad for far, pad in zip(reach, self.padding, strict=True)]
        after = [pad + more for pad, more in zip(before, self.output_padding, strict=True)]
        return wide, (1,) * self.axes, list(zip(before, after, strict=True))

    def moment(self, moment: Tensor) -> Tensor:
        """The second moment that goes with this view's matrix, from that of `patches`.

        In the view ``spatial`` the later axes of the kernel are rows of the matrix; the moment is
        the mean of theirs, and what inputs at different places of them have in common is left out.

        Args:
            moment: (n, n), or its diagonal (n,), n = in/groups · positions.
        """
        places = torch.arange(len(moment), device=moment.device)
        # For each row of the matrix of one output, which entries of a patch its columns multiply.
        rows = self._rows(places.view(1, -1, *self.kernel_size))
        if moment.ndim == 1:
            return torch.stack([moment[row] for row in rows]).mean(dim=0)
        return torch.stack([moment[row][:, row] for row in rows]).mean(dim=0)

    def apply(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        run = self._bound(matrix, bias)
        if self.shared == 1:
            return run(x)
        # Each group of channels becomes an example of its own, and channels again afterwards.
        examples, channels = x.shape[:2]
        y = run(x.reshape(examples * self.shared, channels // self.shared, *x.shape[2:]))
        return y.reshape(examples, self.shared * y.shape[1], *y.shape[2:])

    def bind(self, matrix: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        return super().bind(matrix, bias) if self.shared > 1 else self._bound(matrix, bias)

    def _bound(self, matrix: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        kernel, function, geometry = self.kernel(matrix), CONVOLVE[self.axes], self._geometry
        if self.output_padding is not None:
            function = TRANSPOSED[self.axes]
        return lambda x: function(x, kernel, bias, *geometry)

    @property
    def _geometry(self) -> tuple[Any, ...]:
        """The arguments after the bias, as PyTorch's convolutions take them."""
        if self.output_padding is None:
            return self.stride, self.padding, self.dilation, self.groups
        return self.stride, self.padding, self.output_padding, self.groups, self.dilation

    def add_bias(self, y: Tensor, bias: Tensor | None) -> Tensor:
        return y if bias is None else y + bias.view(-1, *(1,) * self.axes)

    def row_factors(self, x: Tensor, factors: Tensor) -> Tensor | None:
        if self.positions_of_matrix[0] > 1:
            return None  # Several rows add up in each output.
        return factors.repeat(self.shared).view(-1, *(1,) * self.axes)

    def order(self, factors: Sequence[T]) -> list[tuple[T, Operation]]:
        first, *middle, last = factors
        shared = self.shared * self.groups
        pointwise = self._pointwise(shared=shared)
        if self.view == "spatial":
            right = replace(self, groups=1, shared=shared).along(range(1))
            left: Convolve = self.along(range(1, self.axes))
        else:
            right = replace(self, groups=1, shared=shared)
            left = self._pointwise(groups=self.groups, shared=self.shared)
        return [(last, right), *((factor, pointwise) for factor in reversed(middle)), (first, left)]

    def split(self, heights: Sequence[int], widths: Sequence[int]) -> AxisSplit | None:
        rows, columns = self.positions_of_matrix
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
        whole = all(n % k == 0 for n, k in zip(shape, self.positions_of_matrix, strict=True))
        if not whole or not self._is_by_channel or self.groups > 1:
            return None
        return replace(self, groups=count)

    def by_channel(self, positions: int) -> tuple[Operation, Operation] | None:
        if self.view != "channel" or positions != self.positions:
            return None
        return self._pointwise(shared=self.shared * self.groups), self

    @property
    def positions_of_matrix(self) -> tuple[int, int]:
        """Rows and columns of the matrix for each channel, where they are by channel."""
        if self.view == "spatial":
            return math.prod(self.kernel_size[1:]), self.kernel_size[0]
        return 1, self.positions

    @property
    def _is_by_channel(self) -> bool:
        """Whether the rows and columns of one channel follow each other."""
        return self.view != "channels_last" or self.positions == 1

    def _pointwise(self, groups: int = 1, shared: int = 1) -> Convolve:
        """A convolution of one position along the same axes."""
        return Convolve((1,) * self.axes, groups=groups, view=self.view, shared=shared)

    def along(self, axes: range) -> Convolve:
        """The part of this convolution along some of its axes, numbered from 0."""

        def keep(values: tuple[int, ...], neutral: int) -> tuple[int, ...]:
            return tuple(n if axis in axes else neutral for axis, n in enumerate(values))

        padded = self.output_padding
        return replace(
            self,
            kernel_size=keep(self.kernel_size, 1),
            stride=keep(self.stride, 1),
            padding=keep(self.padding, 0),
            dilation=keep(self.dilation, 1),
            output_padding=None if padded is None else keep(padded, 0),
        )
