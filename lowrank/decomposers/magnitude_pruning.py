"""Magnitude pruning: the largest weights stay, the others become zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.decomposers.pruning import Pruning
from lowrank.factorizations import BlockGrid
from lowrank.norms import Norm


@dataclass(frozen=True)
class MagnitudePruning(Pruning):
    """W ≈ W where |W| is largest, 0 elsewhere; a block's magnitude is its Frobenius norm.

    No mask of the same pattern with as many survivors (blocks of equal size) is closer to W in the
    Frobenius norm. Of equal magnitudes the first in row-major order stay, so the count is exact.
    Single weights keep most of the quality; N:M, rows, columns and blocks ask for more of it and
    need less index, or suit a kernel. An index of 1 bit for each weight bounds the compression of
    single 32-bit weights by 32 until CSR becomes smaller, from about 97 % zeros. Survivors keep
    their values and are trained further without reviving the others.

    Except for N:M, rows and columns, rows keep different numbers of weights, so that a later step
    of a `Chain` sees the survivors as one row; then quantize in groups of a number and not by
    ``"channel"``.

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

    Raises:
        ValueError: no block would survive.

    Source: Han, Pool, Tran & Dally, NeurIPS 2015; N:M: Zhou et al., ICLR 2021.
    """

    def scores(self, weight: Tensor, grid: BlockGrid, norm: Norm) -> Tensor:
        # Relative to the largest, so that no square overflows or vanishes.
        magnitude = weight.double().abs()
        magnitude = magnitude / magnitude.max().clamp_min(torch.finfo(torch.float64).tiny)
        return grid.sum(magnitude.square())
