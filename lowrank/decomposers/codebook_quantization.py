"""Codebook quantization: weights share the centroids of a one-dimensional k-means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import Tensor

from lowrank.approximation.shared_levels import by_kmeans
from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Factorization
from lowrank.factorizations.packing import check_bits, check_group_size
from lowrank.norms import Norm
from lowrank.numerics.checks import check_one_of
from lowrank.numerics.kmeans import Start


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
        start: ``"best"``, or ``"even"``: Lloyd's algorithm from even steps over the range of the
            weights, as Deep Compression does. Its error is larger, since few weights are near the
            ends of the range; so its codes differ more in frequency, and an entropy coding of them
            takes fewer bits.

    Raises:
        ValueError: bits, a group size or a start that does not exist.

    Source: Han, Mao & Dally, Deep Compression, ICLR 2016, section 3.
    """

    family: ClassVar[str] = "quantized"

    bits: int
    group_size: int | str = "tensor"
    start: Start = "best"

    def __post_init__(self) -> None:
        check_bits(self.bits)
        check_group_size(self.group_size)
        check_one_of("start", self.start, get_args(Start))

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        return by_kmeans(weight, self.bits, self.group_size, self.start)
