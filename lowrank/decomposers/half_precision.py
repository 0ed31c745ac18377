"""Half precision: values rounded to 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Factorization, Half
from lowrank.norms import Diagonal, Identity, Norm
from lowrank.numerics.checks import check_one_of

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class HalfPrecision(Decomposer):
    """W ≈ W rounded to the nearest number of 16 bits, computed with in the dtype of the weight.

    As the last step of a `Chain` it halves the values that an earlier step left at 32 bits: the
    survivors of pruning (at 50 %, with a bitmask, 9 bits for each weight) or the factors of an SVD.
    No entry changes by more than 2^-11 (float16) or 2^-8 (bfloat16) times the matrix's largest,
    which is negligible beside the error of such a step. It does not pay where the weight has 16
    bits itself. Rounding to nearest is optimal for each entry alone, and so in the norms `Identity`
    and `Diagonal`.

    Args:
        dtype: ``"float16"`` or ``"bfloat16"``, which has the range of float32 and 3 bits less of
            each value.

    Raises:
        ValueError: values above the largest that `dtype` holds, or all below its smallest normal
            number, where it loses digits.
    """

    dtype: Literal["float16", "bfloat16"] = "float16"

    family: ClassVar[str] = "quantized"
    norms: ClassVar[tuple[type[Norm], ...]] = (Identity, Diagonal)

    @property
    def level(self) -> float:
        """Its bits."""
        return 16

    def __post_init__(self) -> None:
        check_one_of("dtype", self.dtype, DTYPES)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        values = weight.to(DTYPES[self.dtype])
        largest = float(weight.abs().max())
        is_small = 0 < largest < torch.finfo(values.dtype).tiny
        if is_small or not bool(values.isfinite().all()):
            what = "below the smallest normal number" if is_small else "above the largest"
            raise ValueError(
                f"the largest of {weight.numel()} values, {largest:.3g}, is {what} of "
                f"dtype={self.dtype!r}. Use dtype='bfloat16', which has the range of float32, or "
                "rescale the weight."
            )
        return Half(values, weight.dtype)
