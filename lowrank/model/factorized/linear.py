"""Linear layers that run a factorization."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import Multiply, Operation
from lowrank.model.factorized.layer import FactorizedLayer, made, read_matrix


class FactorizedLinear(FactorizedLayer):
    """y = x Wᵀ + bias, W a factorization of shape (out, in).

    Raises:
        ValueError: a bias of another length than out.
    """

    kind = "linear"

    def __init__(self, factorization: Factorization, bias: nn.Parameter | None) -> None:
        super().__init__()
        if bias is not None and tuple(bias.shape) != (factorization.shape[0],):
            raise ValueError(
                f"a bias of shape {tuple(bias.shape)} does not fit {factorization.describe()}, "
                f"which needs ({factorization.shape[0]},)"
            )
        self.out_features, self.in_features = factorization.shape
        self.factorization = factorization
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """W, for code that reads the weight of a layer instead of calling it."""
        return read_matrix(self.factorization)

    @property
    def operation(self) -> Operation:
        return Multiply()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def plain(self, weight: nn.Parameter) -> nn.Module:
        layer = made(nn.Linear, self.in_features, self.out_features, bias=self.bias is not None)
        layer.weight, layer.bias = weight, self.bias
        return layer


class FactorizedConv1D(FactorizedLinear):
    """The linear layer of GPT-2 in `transformers`, whose weight is Wᵀ."""

    @property
    def weight(self) -> Tensor:
        """Wᵀ of shape (in, out)."""
        shape = (self.in_features, self.out_features)
        return read_matrix(self.factorization, self.as_weight, shape)

    def as_weight(self, matrix: Tensor) -> Tensor:
        return matrix.T

    def plain(self, weight: nn.Parameter) -> nn.Module:
        # Its library is there: the layer that was replaced came from it.
        library: Any = sys.modules["transformers.pytorch_utils"]
        layer = library.Conv1D(0, 0)
        layer.nf, layer.nx = self.out_features, self.in_features
        layer.weight, layer.bias = weight, self.bias
        return layer
