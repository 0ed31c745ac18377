"""Magnitude pruning: the largest weights stay, the others become zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.decomposers.budget import check_sparsity
from lowrank.decomposers.decomposer import check_weight
from lowrank.decomposers.patterns import ranking
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


def global_sparsities(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
    """Each layer's own sparsity when one magnitude threshold holds for all layers.

    In total exactly round(sparsity · N) of the N weights become zero, those of smallest magnitude,
    but for the largest of each layer, which stays. Equal magnitudes go from the last on.

    Args:
        weights: name → matrix.
        sparsity: share of all weights together that become zero, in [0, 1).

    Raises:
        ValueError: no weights, a weight that is not finite, or so few survivors that a layer would
            keep none.
    """
    if not weights:
        raise ValueError("global_sparsities needs at least 1 weight, got none")
    check_sparsity(sparsity)
    magnitudes = []
    for name, weight in weights.items():
        try:
            check_weight(weight)
        except ValueError as error:
            raise ValueError(f"layer '{name}': {error}") from error
        magnitude = weight.detach().flatten().abs()
        magnitude[magnitude.argmax()] = torch.inf
        magnitudes.append(magnitude)
    total = sum(map(len, magnitudes))
    keep = total - round(sparsity * total)
    if keep < len(weights):
        raise ValueError(
            f"sparsity={sparsity} leaves {keep} of {total} weights to {len(weights)} layers, each "
            "of which keeps at least 1; lower it"
        )
    kept = ranking(torch.cat(magnitudes))[:keep]
    ends = torch.tensor([len(magnitude) for magnitude in magnitudes]).cumsum(0)
    layer = torch.bucketize(kept, ends.to(kept.device), right=True)
    counts = torch.bincount(layer, minlength=len(weights)).tolist()
    sizes = map(len, magnitudes)
    shares = [(size - count) / size for size, count in zip(sizes, counts, strict=True)]
    return dict(zip(weights, shares, strict=True))
