"""Entropy coding of what another method makes: Deep Compression's third step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lowrank.decomposers.decomposer import Decomposer, nearest_of
from lowrank.factorizations import Codebook, Factorization, Sparse, recoded
from lowrank.factorizations.operations import KernelView
from lowrank.factorizations.packing import check_bits
from lowrank.factorizations.symbol_coding import coding_named
from lowrank.norms import Norm
from lowrank.numerics.checks import check_is


@dataclass(frozen=True)
class EntropyCoding(Decomposer):
    """The W of another method, in fewer bytes: frequent codes and gaps take fewer bits.

    ``EntropyCoding(Chain([MagnitudePruning(0.9), CodebookQuantization(5)]))`` is Deep Compression
    without its training. Codes of codebooks are coded, and positions of kept weights become gaps
    to the one before; each only where that is smaller. W stays what it was, bit for bit.

    Pays for pruned weights: at 90 % zeros gaps take 0.5 bits for each weight, and a bitmask 1.
    Codes of k-means gain some tenths of a bit, as centroids in the middle have more weights.
    Evenly spaced levels are left as they are: `EntropyCodedQuantization` chooses them for an
    entropy code.

    Args:
        method: what makes W. A ratio of bytes that it has is one before the coding.
        coding: ``"huffman"``, whole bits for each code; ``"ans"``, fractions of bits; or
            ``"fixed"`` width, by which gaps alone save bytes.
        gap_bits: of the gaps, 1..8; see `GapIndex`.

    Raises:
        ValueError: what is no method, a coding or bits that do not exist; or as the method.

    Source: Han, Mao & Dally, ICLR 2016, sections 2 (gaps) and 4 (Huffman code).
    """

    method: Decomposer
    coding: str = "huffman"
    gap_bits: int = 5

    family: ClassVar[str] = "hybrid"
    # The method checks the norm.
    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)

    def __post_init__(self) -> None:
        check_is("method", self.method, Decomposer, "CodebookQuantization(4)")
        coding_named(self.coding)
        check_bits(self.gap_bits)

    @property
    def level(self) -> float | None:
        """The level of the method."""
        return self.method.level

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        self.method.check_norms(types)

    def kernel_view(self) -> KernelView:
        return self.method.kernel_view()

    def for_kernel(self, size: tuple[int, ...]) -> Decomposer:
        return replace(self, method=self.method.for_kernel(size))

    def check_shape(self, weight: Tensor) -> None:
        with nearest_of(lambda method: replace(self, method=method)):
            self.method.check_shape(weight)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        form = self.method.approximate(weight, norm)
        if not any(isinstance(part, Codebook | Sparse) for part in form.modules()):
            form.notes += ("it has neither a codebook nor pruned weights: nothing was coded",)
        return recoded(form, self.coding, self.gap_bits)
