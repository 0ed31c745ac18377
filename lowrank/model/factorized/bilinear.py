"""Bilinear layers that run a factorization."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowrank.factorizations import Factorization
from lowrank.model.factorized.layer import FactorizedLayer, made, read_matrix


class FactorizedBilinear(FactorizedLayer):
    """y = W (x₁ ⊗ x₂) + bias, W a factorization of shape (out, in₁ · in₂)."""

    kind = "bilinear"

    def __init__(self, layer: nn.Bilinear, factorization: Factorization) -> None:
        super().__init__()
        self.in1_features, self.in2_features = layer.in1_features, layer.in2_features
        self.out_features = layer.out_features
        self.factorization = factorization
        self.bias = layer.bias

    @property
    def settings(self) -> dict[str, Any]:
        sizes = {"in1_features": self.in1_features, "in2_features": self.in2_features}
        return super().settings | sizes

    @property
    def weight(self) -> Tensor:
        """W in PyTorch's layout, (out, in₁, in₂), for code that reads it instead of calling."""
        shape = (self.out_features, self.in1_features, self.in2_features)
        return read_matrix(self.factorization, self.as_weight, shape)

    def as_weight(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(self.out_features, self.in1_features, self.in2_features)

    def plain(self, weight: nn.Parameter) -> nn.Module:
        sizes = (self.in1_features, self.in2_features, self.out_features)
        layer = made(nn.Bilinear, *sizes, bias=self.bias is not None)
        layer.weight, layer.bias = weight, self.bias
        return layer

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return self.run(products(input1, input2))


def products(x: Tensor, y: Tensor) -> Tensor:
    """All products of an entry of x (…, in₁) and one of y (…, in₂), (…, in₁ · in₂)."""
    return (x[..., :, None] * y[..., None, :]).flatten(-2)
