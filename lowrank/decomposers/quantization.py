"""Rounding to nearest: evenly spaced levels, a scale for each group of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from lowrank.approximation.rounding import Rounding, round_to_nearest
from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Factorization
from lowrank.norms import Diagonal, Identity, Norm


@dataclass(frozen=True)
class Quantization(Decomposer):
    """W ≈ (code − zero) · scale, each weight rounded to the nearest level.

    With ``scale="range"`` no weight is clipped: |W − Ŵ| ≤ |scale|/2 everywhere (scales are rounded
    up to their stored dtype, before the codes are made), so one bit more about halves the error.
    Needs no data. 8 bits cost almost no quality; at 4 bits smaller groups help; at 2 or 3 rounding
    without data is poor. 1 bit has symmetric levels at plus and minus the mean magnitude, by the
    range too, weighted in the diagonal norm: the best there are without a zero.

    Takes bits + 16 / group_size bits for each weight, with zero points bits / group_size more, so
    groups must be much larger than 16 / bits to pay.

    Args:
        bits: of a code, 1..8.
        group_size: consecutive inputs that share a scale; ``"channel"`` (a row) or ``"tensor"``.
        symmetric: no zero points. Levels are −2^(bits−1) … 2^(bits−1) − 1 times a scale whose sign
            puts the group's largest weight on the longer side: |scale| = max(largest / 2^(bits−1),
            largest of the other sign / (2^(bits−1) − 1/2)). If not symmetric, levels span
            [min(w, 0), max(w, 0)] and an integer zero point says which of them is exactly 0: better
            for one-sided weights.
        scale: ``"range"``, or ``"mse"``: least squared error in the norm, by a search over smaller
            ranges and then least squares for fixed codes in turn with codes for fixed scales. Not
            the global optimum, but never worse than the range; in the identity norm it clips
            outliers, and so may lose quality where they matter. Pays at 4 bits and fewer.
            ``"range"`` ignores the norm, with a note if that is not the identity: the nearest level
            is the same for every weighting of the errors.
        scale_dtype: ``"float16"``, ``"bfloat16"`` (the range of float32, 3 digits fewer) or
            ``"float32"``.

    Raises:
        ValueError: a hyperparameter that does not exist; a scale too large for `scale_dtype`, or
            too near 0 for it, unless it may be rounded up because that is still below 2^-10 of the
            matrix's largest scale.

    Source: Jacob et al., CVPR 2018, section 2 (zero points); Banner et al., NeurIPS 2019
    (clipping).
    """

    bits: int
    group_size: int | str = "channel"
    symmetric: bool = True
    scale: Literal["range", "mse"] = "range"
    scale_dtype: str = "float16"

    family: ClassVar[str] = "quantized"
    norms: ClassVar[tuple[type[Norm], ...]] = (Identity, Diagonal)

    def __post_init__(self) -> None:
        self.rounding()

    def rounding(self) -> Rounding:
        """Where the levels lie."""
        return Rounding(self.bits, self.group_size, self.symmetric, self.scale, self.scale_dtype)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        return round_to_nearest(weight, norm, self.rounding())
