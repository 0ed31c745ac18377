"""Magnitude pruning and Wanda: the weights of highest score stay, the others become zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lowrank.decomposers.pruning import ScoredPruning
from lowrank.factorizations import BlockGrid
from lowrank.norms import Diagonal, Identity, Norm
from lowrank.numerics.ranking import relative


@dataclass(frozen=True)
class MagnitudePruning(ScoredPruning):
    """W ≈ W where its entries have the highest scores, 0 elsewhere: magnitude pruning, and Wanda.

    The score of an entry is |w| in the norm `Identity` and |w| · √(its weight in the norm) in
    `Diagonal`, which is Wanda with the mean square of each input and `within` = ``"row"``. The
    score of a block is the root of the sum of squares. No mask of the same pattern with as many
    survivors in each compared set (blocks of equal size) is closer to W in that norm. Of equal
    scores the first in row-major order stay, so the count is exact.

    Single weights keep most of the quality; N:M, rows, columns and blocks cost more quality, and
    need a smaller index or suit a kernel. An index of 1 bit for each weight bounds the compression
    of single 32-bit weights by 32 until CSR becomes smaller, from about 97 % zeros. Survivors keep
    their values; further training does not revive the others. With the full second moment of the
    inputs, `SparseGPT` has a smaller error.

    Except for N:M, rows, columns and `within` = ``"row"``, rows keep different numbers of weights,
    so that a later step of a `Chain` sees the survivors as one row; then quantize in groups of a
    number and not by ``"channel"``.

    Exactly one of `sparsity` and `compression_ratio` is given; for N:M none, the pattern fixes it.

    Args:
        sparsity: share of the pattern's blocks (single weights, rows, …) that become zero, rounded
            to whole blocks, in [0, 1).
        compression_ratio: dense bytes over stored bytes, index included; as many blocks survive as
            this allows; at least 1.
        pattern: ``unstructured``; N:M such as ``2:4``, N non-zeros in every M consecutive inputs of
            a row, ⌈N · rest / M⌉ in a last group of `rest` < M; ``rows``; ``columns``; or blocks
            such as ``16x16``, smaller at the right and lower edge. Of a convolution's kernel the
            rows are output channels, the columns (in, kh, kw); for N:M (kh, kw, in), so that groups
            are of input channels.
        within: where scores are compared: in the whole ``"matrix"``, which has the least error, or
            in each ``"row"`` of single weights or blocks, so that every output keeps equally many
            even if its weights are small. Sparsity is then rounded in each row.

    Raises:
        ValueError: no block would survive.

    Source: Han, Pool, Tran & Dally, NeurIPS 2015; N:M: Zhou et al., ICLR 2021; Wanda: Sun, Liu,
    Bair & Kolter, ICLR 2024, equation 1.
    """

    norms: ClassVar[tuple[type[Norm], ...]] = (Identity, Diagonal)

    def scores(self, weight: Tensor, grid: BlockGrid, norm: Norm) -> Tensor:
        # Relative to the largest, so that no square overflows or vanishes.
        squares = relative(weight.double().abs()).square()
        return grid.sum(squares * relative(norm.entry_weights(weight)))
