"""The kernel that holds no dense matrix of entropy codes."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lowrank.execution.dense import NO_PRODUCT
from lowrank.execution.kernel import Kernel, Prepared, Work, on_rows
from lowrank.factorizations import EntropyCoded
from lowrank.factorizations.entropy_tiles import WEIGHTS, EntropyTiles


class TiledKernel(Kernel):
    """Rows of an entropy-coded matrix decoded in every pass, some at a time, multiplied and let go.

    For models that fit into memory as they are stored only: decoding takes some hundred times as
    long as a product. Not in `KERNELS`, since it is never the fastest; ``goal="memory"`` of
    `optimize_for` tries it.

    Args:
        weights: about how many are decoded at once; see `EntropyTiles`.
    """

    name: ClassVar[str] = "tiled"

    def __init__(self, weights: int = WEIGHTS) -> None:
        self.weights = weights

    def refusal(self, work: Work) -> str:
        if not isinstance(work.leaf, EntropyCoded):
            return "it decodes entropy codes, and this is none of them"
        return "" if work.multiplies else NO_PRODUCT

    def prepare(self, work: Work) -> Prepared:
        form, bias = work.leaf, work.bias
        assert isinstance(form, EntropyCoded)
        tiles = EntropyTiles(form, self.weights)

        def run(x: Tensor) -> Tensor:
            y = x.new_empty(len(x), form.shape[0])
            for first, tile in tiles:
                y[:, first : first + len(tile)] = x @ tile.t()
            return y if bias is None else y.add_(bias)

        made = tiles.rows * form.shape[1] * form.dtype.itemsize
        read = sum(tensor.nbytes for tensor in work.stored())
        return Prepared(on_rows(run), tiles.nbytes, made, read)
