"""The interface of modules that replace layers and run a factorization."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from lowrank.factorizations import Dense, Factorization
from lowrank.factorizations.lazy_weight import LazyWeight, matrix_of, refuse
from lowrank.factorizations.operations import KernelView, Operation
from lowrank.factorizations.tracing import is_recorded


class FactorizedLayer(nn.Module):
    """A layer whose weight is a factorization.

    Attributes:
        factorization: the weight as a matrix.
        view: as which matrix a kernel is seen; of no effect but in convolutions.
        kind: of the layer that it stands in for, in a word.
    """

    kind: str
    factorization: Factorization
    view: KernelView = "channel"
    # Whether it runs a packed copy of its weight, which no change of the weight reaches.
    is_packed: ClassVar[bool] = False
    # The attribute by which code reads the weight of the replaced layer.
    weight_name: ClassVar[str] = "weight"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == self.weight_name:
            refuse(self.factorization)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name == self.weight_name:
            refuse(self.factorization)
        super().__delattr__(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if name == self.weight_name:
            refuse(self.factorization)
        super().register_parameter(name, param)

    def run(self, x: Tensor) -> Tensor:
        """Apply the factorization to inputs as its operation takes them, and add the bias.

        What `lowrank.execution` exchanges for a faster kernel.
        """
        return self.factorization(x, bias=self.bias)

    @abstractmethod
    def plain(self, weight: nn.Parameter) -> nn.Module:
        """The layer that it stands in for, with a weight in that layer's own layout."""

    def as_weight(self, matrix: Tensor) -> Tensor:
        """The matrix of the factorization in the layout of that layer's weight."""
        return matrix

    @property
    def operation(self) -> Operation | None:
        """How its matrix is applied to its inputs; None if the module around it reads the weight.

        Of a convolution that pads its inputs itself, without that padding.
        """
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that its outputs depend on besides its tensors, as JSON."""
        return {"kind": self.kind}

    def extra_repr(self) -> str:
        return f"view={self.view}" if self.view != "channel" else ""


def made(cls: type[nn.Module], *sizes: Any, **settings: Any) -> Any:
    """A module of PyTorch whose tensors have no numbers yet and take no time to make."""
    return cls(*sizes, device="meta", **settings)


def read_matrix(
    factorization: Factorization,
    finish: Callable[[Tensor], Tensor] | None = None,
    shape: tuple[int, ...] | None = None,
) -> Tensor:
    """The matrix, or what `finish` makes of it, of `shape`: the parameter itself if it is one."""
    if isinstance(factorization, Dense) and finish is None:
        return factorization.weight
    finish = finish or (lambda matrix: matrix)
    if is_recorded():
        return finish(matrix_of(factorization))  # What is traced are plain tensors.
    return LazyWeight.of(factorization, finish, shape or factorization.shape)
