"""Linear layers that run a factorization."""

from __future__ import annotations

from torch import Tensor, nn

from lowrank.factorizations import Factorization
from lowrank.model.factorized.layer import FactorizedLayer, read_matrix


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

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)
