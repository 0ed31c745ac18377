"""Convolutions of one to three axes, ordinary and transposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import Convolve, KernelView
from lowrank.model.factorized import FactorizedConvolution, FactorizedLayer, convolution
from lowrank.model.factorized.convolution import padded, padding_before, resized
from lowrank.model.layers.rule import Rule


@dataclass(frozen=True)
class ConvolutionRule(Rule):
    """A rule for one of PyTorch's classes of convolutions."""

    known: type[_ConvNd]
    # Subclasses change the kernel, or the size of outputs, in methods that `forward` calls.
    code = ("forward", "_conv_forward", "_output_padding")

    def module_type(self) -> type[nn.Module]:
        return self.known

    def as_matrix(self, module: nn.Module, values: Tensor, view: KernelView) -> Tensor:
        return self.operation(module, view).matrix(values)

    def as_weight(self, module: nn.Module, matrix: Tensor, view: KernelView) -> Tensor:
        return self.operation(module, view).kernel(matrix)

    def kernel_size(self, module: nn.Module) -> tuple[int, ...]:
        return self.operation(module, "channel").kernel_size

    def inputs(
        self, module: nn.Module, x: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        assert isinstance(module, _ConvNd)
        operation = self.operation(module, "channel")
        x = x if x.ndim == operation.axes + 2 else x[None]
        if output_size is not None:
            operation = resized(operation, x, output_size)
        return operation.patches(padded(x, padding_before(module), module.padding_mode))

    def reading(self, module: nn.Module, x: Tensor, *others: Any) -> Any:
        assert isinstance(module, _ConvNd)
        padding = tuple(padding_before(module))
        return self.operation(module, "channel"), module.padding_mode, padding, others

    def operation(self, module: nn.Module, view: KernelView) -> Convolve:
        assert isinstance(module, _ConvNd)
        return convolution(module, view)

    def moment(self, module: nn.Module, moment: Tensor, view: KernelView) -> Tensor:
        return self.operation(module, view).moment(moment)

    def build(self, module: Any, factorization: Factorization, view: KernelView) -> FactorizedLayer:
        return FactorizedConvolution(module, factorization, view)
