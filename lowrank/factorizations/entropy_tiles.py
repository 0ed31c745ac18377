"""The rows of an entropy-coded matrix, some at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lowrank.factorizations.ans import Decoder
from lowrank.factorizations.entropy_coded import EntropyCoded
from lowrank.factorizations.laws import Exponents

# Weights that are decoded at once: with codes and steps some 800 kB.
WEIGHTS = 2**15


class EntropyTiles:
    """The matrix of an `EntropyCoded` in tiles of rows, each decoded, used and let go.

    It holds the tables of the decoder, some 100 kB, and never the matrix or its codes as a whole.
    Every pass over the tiles decodes again.

    Args:
        form: whose tensors are not copied.
        weights: about how many a tile has; at least one row, and as many as the streams of the code
            decode together, a 2048th of the matrix.
    """

    def __init__(self, form: EntropyCoded, weights: int = WEIGHTS) -> None:
        law, spreads = form.coding
        self.form, self.steps = form, form.steps
        self.rows = max(1, min(weights // form.shape[1], form.shape[0]))
        self._row, self._column = spreads.row.cpu().long().numpy(), spreads.column.cpu().numpy()
        widest = int(self._row.max()) + int(self._column.max())
        self._decoder = Decoder(law.frequencies(range(widest + 1)))

    @property
    def nbytes(self) -> int:
        """Bytes that it holds besides the factorization."""
        exponents = self.steps.row.nbytes + self.steps.column.nbytes
        return self._decoder.nbytes + self._row.nbytes + self._column.nbytes + exponents

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """The first row of each tile, and the tile (rows, in), in the dtype of the matrix.

        Raises:
            ValueError: the stream cannot be decoded.
        """
        form, columns = self.form, self.form.shape[1]
        waiting: list[np.ndarray] = []
        first = held = 0
        for symbols in self._decoder.parts(form.stream, form.shape[0] * columns, self._contexts):
            waiting.append(symbols)
            held += len(symbols)
            count = held // columns
            if count >= self.rows or first + count == form.shape[0]:
                flat = np.concatenate(waiting)
                yield first, self._tile(flat[: count * columns], first, count)
                first, waiting, held = first + count, [flat[count * columns :]], held % columns

    def _tile(self, symbols: np.ndarray, first: int, count: int) -> Tensor:
        form = self.form
        codes = (
            torch.from_numpy(symbols.astype(np.int64)).view(count, -1) - form.reach + form.centre
        )
        steps = Exponents(self.steps.row[first : first + count], self.steps.column)
        return form.levels(codes.to(form.stream.device), steps)

    def _contexts(self, part: slice) -> np.ndarray:
        places = np.arange(part.start, part.stop)
        columns = len(self._column)
        return self._row[places // columns] + self._column[places % columns]
