"""Weights, held as a factorization, that the code of the module around them reads."""

from __future__ import annotations

from torch import Tensor, nn

from lowrank.factorizations import Factorization
from lowrank.model.factorized.layer import FactorizedLayer, read_matrix


class FactorizedRead(FactorizedLayer):
    """A weight (out, in) that is multiplied out whenever it is read.

    It saves bytes and no MACs, and the dropout of an adapter does not act.
    """

    kind = "read"
    bias = None

    def __init__(self, factorization: Factorization) -> None:
        super().__init__()
        self.factorization = factorization

    @property
    def weight(self) -> Tensor:
        """W."""
        return read_matrix(self.factorization)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ for x of shape (…, in); called in calibration only."""
        return self.run(x)

    def plain(self, weight: nn.Parameter) -> nn.Module:
        raise ValueError("it is a part of the module around it, which is made plain as a whole")
