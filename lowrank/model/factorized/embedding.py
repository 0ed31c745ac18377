"""Look-up tables that run a factorization."""

from __future__ import annotations

from torch import Tensor, nn

from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import Lookup, Operation
from lowrank.model.factorized.layer import FactorizedLayer, made, read_matrix


class FactorizedEmbedding(FactorizedLayer):
    """Rows of a table that is a factorization of shape (num_embeddings, embedding_dim).

    Raises:
        ValueError: a row for padding that the table does not have.
    """

    kind = "embedding"

    def __init__(self, factorization: Factorization, padding_idx: int | None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = factorization.shape
        rows = self.num_embeddings
        if padding_idx is not None and not -rows <= padding_idx < rows:
            raise ValueError(f"padding_idx={padding_idx} is none of {rows} rows")
        self.padding_idx = padding_idx
        self._operation = Lookup(padding_idx)
        self.factorization = factorization

    @property
    def weight(self) -> Tensor:
        """The table, for code that reads it instead of calling."""
        return read_matrix(self.factorization)

    @property
    def operation(self) -> Operation:
        return self._operation

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        return self.factorization(x, self._operation)

    def plain(self, weight: nn.Parameter) -> nn.Module:
        rows, width = self.num_embeddings, self.embedding_dim
        layer = made(nn.Embedding, rows, width, padding_idx=self.padding_idx)
        layer.weight = weight
        return layer
