"""Convolutions of any number of axes that run a factorization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import Convolve, KernelView
from lowrank.model.factorized.layer import FactorizedLayer, made, read_matrix

# Along one, two and three axes.
ORDINARY = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class FactorizedConvolution(FactorizedLayer):
    """A convolution, ordinary or transposed, whose kernel is a factorization of the matrix that
    `view` names.

    Raises:
        ValueError: a view that does not exist, or a factorization of another shape.
    """

    def __init__(self, layer: _ConvNd, factorization: Factorization, view: KernelView) -> None:
        super().__init__()
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        self.padding, self.dilation, self.groups = layer.padding, layer.dilation, layer.groups
        self.padding_mode, self.output_padding = layer.padding_mode, layer.output_padding
        self._pad = padding_before(layer)
        self._operation = convolution(layer, view)
        self.kind = f"{'conv_transpose' if self.is_transposed else 'conv'}{self._operation.axes}d"
        self._shape = tuple(layer.weight.shape)
        wanted = tuple(self._operation.matrix(torch.empty(self._shape, device="meta")).shape)
        if factorization.shape != wanted:
            raise ValueError(
                f"{factorization.describe()} of shape {factorization.shape} is no kernel of this "
                f"layer, whose matrix in the view {view!r} has shape {wanted}"
            )
        self.view = view
        self.factorization = factorization
        self.bias = layer.bias

    @property
    def is_transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return self._operation.output_padding is not None

    @property
    def operation(self) -> Convolve:
        return self._operation

    @property
    def settings(self) -> dict[str, Any]:
        values = self._geometry.items()
        return super().settings | {n: list(v) if isinstance(v, tuple) else v for n, v in values}

    @property
    def _geometry(self) -> dict[str, Any]:
        """The settings of the layer that it stands in for."""
        names = ["kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
        names += ["output_padding"] if self.is_transposed else []
        return {name: getattr(self, name) for name in names}

    @property
    def weight(self) -> Tensor:
        """The kernel in PyTorch's layout, for code that reads it instead of calling."""
        return read_matrix(self.factorization, self.as_weight, self._shape)

    def as_weight(self, matrix: Tensor) -> Tensor:
        return self._operation.kernel(matrix)

    def plain(self, weight: nn.Parameter) -> nn.Module:
        kinds = TRANSPOSED if self.is_transposed else ORDINARY
        kind, has_bias = kinds[self._operation.axes - 1], self.bias is not None
        channels = (self.in_channels, self.out_channels)
        layer = made(kind, *channels, bias=has_bias, **self._geometry)
        layer.weight, layer.bias = weight, self.bias
        return layer

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        if x.ndim == self._operation.axes + 1:
            return self.forward(x[None], output_size)[0]
        if output_size is not None:
            operation = resized(self._operation, x, output_size)
            return self.factorization(x, operation, self.bias)
        return self.run(padded(x, self._pad, self.padding_mode))

    def run(self, x: Tensor) -> Tensor:
        return self.factorization(x, self._operation, self.bias)


def convolution(layer: _ConvNd, view: KernelView) -> Convolve:
    """The operation that `layer` performs, without the padding that has to be done before."""
    pads_first = bool(padding_before(layer))
    transposed = isinstance(layer, _ConvTransposeNd)
    return Convolve(
        kernel_size=_numbers(layer.kernel_size),
        stride=_numbers(layer.stride),
        padding=() if pads_first else _numbers(layer.padding),
        dilation=_numbers(layer.dilation),
        groups=layer.groups,
        view=view,
        output_padding=_numbers(layer.output_padding) if transposed else None,
    )


def padding_before(layer: _ConvNd) -> list[int]:
    """The padding, as `F.pad` takes it, that the convolution cannot do itself; empty if it can."""
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return []
    return list(layer._reversed_padding_repeated_twice)


def padded(x: Tensor, padding: list[int], padding_mode: str) -> Tensor:
    """Inputs with the padding of `padding_before`."""
    mode = "constant" if padding_mode == "zeros" else padding_mode
    return F.pad(x, padding, mode) if padding else x


def resized(operation: Convolve, x: Tensor, output_size: Sequence[int]) -> Convolve:
    """A transposed convolution with the output padding that gives outputs of a size.

    Args:
        x: (batch, channels, …).
        output_size: with or without batch and channels.

    Raises:
        ValueError: no output padding gives it.
    """
    if operation.output_padding is None:
        raise ValueError("output_size is for transposed convolutions, and this is none")
    given = tuple(output_size)[-operation.axes :]
    own = (x, list(given), *(list(v) for v in (operation.stride, operation.padding)))
    own = (*own, list(operation.kernel_size), operation.axes, list(operation.dilation))
    found = _ConvTransposeNd._output_padding(None, *own)  # type: ignore[arg-type]
    return replace(operation, output_padding=tuple(found))


def _numbers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
