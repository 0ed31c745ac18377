"""Codebook quantization: weights share the centroids of a one-dimensional k-means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Codebook, Factorization
from lowrank.factorizations.packing import Layout, check_bits, check_group_size
from lowrank.norms import Norm
from lowrank.numerics.kmeans import kmeans, midpoints
from lowrank.numerics.memo import memoised


@dataclass(frozen=True)
class CodebookQuantization(Decomposer):
    """W ≈ centroid of its code; centroids by k-means over the weights of each group.

    Levels lie where the weights are, so at the same bits the error is below that of evenly spaced
    levels (`Quantization`), the more so the fewer the bits. The price is 2^bits centroids, in the
    weight's dtype, for each group: worth it for one codebook of a whole matrix, and rarely for
    groups of fewer than some thousand weights. The centroids can be trained afterwards.

    A local optimum (see `kmeans`), the global one for groups of fewer than 32 weights; a group of
    at most 2^bits distinct weights is stored without error. No randomness.

    Args:
        bits: of a code, 1..8.
        group_size: ``"tensor"``, ``"channel"`` (a row), or consecutive inputs that share a
            codebook.

    Raises:
        ValueError: bits or a group size that does not exist.

    Source: Han, Mao & Dally, Deep Compression, ICLR 2016, section 3.
    """

    family: ClassVar[str] = "quantized"

    bits: int
    group_size: int | str = "tensor"

    def __post_init__(self) -> None:
        check_bits(self.bits)
        check_group_size(self.group_size)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        layout = Layout((weight.shape[0], weight.shape[1]), self.bits, self.group_size)
        values, sizes = sorted_groups(weight, group_size=self.group_size)
        centroids = kmeans(values, sizes, 2**self.bits).to(weight.dtype)
        groups = layout.split(weight).contiguous()
        codes = torch.searchsorted(midpoints(centroids.double()), groups.double())
        return Codebook(layout, layout.join(codes), centroids)


@memoised
def sorted_groups(weight: Tensor, *, group_size: int | str) -> tuple[Tensor, Tensor]:
    """The weights of each group (count, width), ascending, float64, then inf; and their number."""
    layout = Layout((weight.shape[0], weight.shape[1]), 1, group_size)
    filled = layout.filled(weight.device)
    values = torch.where(filled, layout.split(weight.double()), torch.inf)
    return values.sort(dim=1).values, filled.sum(dim=1)
