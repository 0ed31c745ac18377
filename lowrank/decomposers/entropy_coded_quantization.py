"""Entropy-coded quantization: any average number of bits, also a fraction, for each weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lowrank.approximation.rivals import nearer_of_rivals
from lowrank.approximation.step_search import StepSearch
from lowrank.decomposers.decomposer import Decomposer, Unfit
from lowrank.factorizations import Factorization
from lowrank.factorizations.entropy_coded import least_bytes
from lowrank.norms import Norm
from lowrank.numerics.checks import check_integer, check_number
from lowrank.numerics.curvature import raised
from lowrank.numerics.normalised import Normalised


@dataclass(frozen=True)
class EntropyCodedQuantization(Decomposer):
    """W ≈ code · step, the codes any integers, stored in the bits that they carry.

    One step for the whole matrix and an entropy code take the place of few levels and a scale for
    each group. In the full norm the columns are rounded in turn and later ones compensate errors,
    as in `GPTQ`. But each code minimises the error plus a multiple of its bits (rate-distortion
    optimisation), and rows and columns whose errors have less weight get coarser steps, if that
    pays. At the same bytes the squared error is about half that of `GPTQ` with groups of 64 and
    zero points, and the number of bits can be any real number. For normally distributed weights
    vector quantization could save at most another quarter of a bit.

    It saves bytes, not time: a matrix is decoded when it is first used. Where codes must have one
    width, for kernels that compute with them, take `GPTQ`.

    The step is the smallest found with which the matrix takes at most `bits` for each weight;
    mostly less than 0.004 bits are left over. Weights that are few multiples of one number, such as
    ±1 or a constant, are stored without error if that fits; otherwise only some of them (single
    ones, or whole rows or columns, whichever is nearer) have codes. Codes end at 2^12; a note says
    where that limits the step, and where more than half of the bytes are left over. Weights may
    have any magnitude.

    Some weights, such as uniformly distributed ones or those of two values, are better served by
    other levels. So the result is compared with `Quantization` in the smallest groups and
    `CodebookQuantization` of the whole matrix, each with the most bits that fit into the same
    bytes, and with `MagnitudePruning`, which suits a few weights among zeros. If one of them is
    nearer in the norm, it is returned with a note. The first two are skipped if they are much worse
    on a sample of rows.

    Args:
        bits: of each weight, all that is stored counted; above 0, at most 8.
        sweeps: of coordinate descent over the rounded columns, in the full norm, at least 0: each
            code is chosen anew with the others fixed. Each takes as long as rounding.

    Raises:
        ValueError: bits out of range, or too few even for codes that are all 0, which take 12
            bytes and 4 more for each 2048 weights.

    Source: Gish & Pierce, IEEE Trans. Inf. Theory 1968 (evenly spaced levels and entropy codes);
    Sullivan & Wiegand, IEEE Signal Processing Magazine 1998 (choosing by error and rate);
    Frantar, Ashkboos, Hoefler & Alistarh, ICLR 2023 (compensation); Behdin et al., 2023 (sweeps).
    """

    bits: float
    sweeps: int = 2

    family: ClassVar[str] = "quantized"
    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)

    def __post_init__(self) -> None:
        check_number("bits", self.bits, "lie in (0, 8]", lambda x: 0 < x <= 8)
        check_integer("sweeps", self.sweeps, least=0)

    def check_shape(self, weight: Tensor) -> None:
        count, least = weight.numel(), least_bytes(weight.numel())
        if self._budget(count) >= least:
            return
        bits = 8 * least / count
        while int(bits * count / 8) < least:
            bits = math.nextafter(bits, math.inf)
        advice = f"give bits={math.ceil(1000 * bits) / 1000:g} or more"
        raise Unfit(
            f"bits={self.bits}: {self._budget(count)} bytes are too few for {count} weights, of "
            f"which even codes that are all 0 take {least}: "
            f"{advice if bits <= 8 else 'leave this layer out with `where`'}",
            replace(self, bits=bits) if bits <= 8 else None,
        )

    def _budget(self, count: int) -> int:
        """Bytes for `count` weights."""
        return int(self.bits * count / 8)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        budget = self._budget(weight.numel())
        normalised = Normalised.of(weight)
        search = StepSearch(normalised, norm, budget, self.sweeps)
        form, found = search.run()
        form.notes = raised(search.matrix.share) + form.notes
        result = nearer_of_rivals(normalised, norm, (form, found), budget)
        taken = result.nbytes
        if result is form and 2 * taken < budget and norm(normalised.unit - found):
            form.notes += (f"takes {taken} of {budget} bytes: no codes were found that use more",)
        return result
