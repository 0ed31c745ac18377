"""Entropy-coded quantization: codes of as many bits as they carry, of any number on average."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lowrank.approximation.rivals import nearer_of_rivals
from lowrank.approximation.step_search import Search
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
    each group. In the full norm the columns are rounded in turn and later ones make up for errors,
    as in `GPTQ`; but each code is the one for which error and bits together cost least, and rows
    and columns have coarser steps where their errors count less, if that pays. At the same bytes
    the squared error is about half that of `GPTQ` with groups of 64 and zero points, and any number
    of bits can be had. For normal numbers a quarter of a bit is left to gain, by quantizing many
    weights at once.

    It saves bytes, not time: a matrix is decoded when it is first used. Where codes must have one
    width, for kernels that compute with them, take `GPTQ`.

    The step is the smallest found with which the matrix takes no more than `bits`; mostly all but
    0.004 bits of them are used. Weights that are few multiples of one number, such as ±1 or a
    constant, come back without error where that fits; where it does not, some of them keep their
    codes, whole rows or columns if that is nearer. Codes end at 2^12; where that stops a step, a
    note says so, and so does one where more than half of the bytes are left. Weights may have any
    size.

    Levels at any distance or of few values suit some weights better: uniform ones, two values. It
    is compared with `Quantization` in the smallest groups and `CodebookQuantization` of the whole
    matrix, each with the most bits that fit into the same bytes, and with `MagnitudePruning`, which
    suits a few weights among zeros; where one of them is nearer in the norm, that comes back with a
    note. Where a sample of rows leaves the first two no chance, they are not tried.

    Args:
        bits: of each weight, all that is stored counted; above 0, at most 8.
        sweeps: over the columns after they have been rounded, in the full norm, at least 0: each
            code is chosen anew, as the errors of the others want it. Each takes as long as
            rounding.

    Raises:
        ValueError: bits out of range, or too few to say that all codes are 0, which the shape
            decides: 12 bytes and 4 more for each 2048 weights.

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
        """Bytes for so many weights."""
        return int(self.bits * count / 8)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        budget = self._budget(weight.numel())
        normalised = Normalised.of(weight)
        search = Search(normalised, norm, budget, self.sweeps)
        form, found = search.run()
        form.notes = raised(search.matrix.share) + form.notes
        result = nearer_of_rivals(normalised, norm, (form, found), budget)
        taken = result.nbytes
        if result is form and 2 * taken < budget and norm(normalised.unit - found):
            form.notes += (f"takes {taken} of {budget} bytes: no codes were found that use more",)
        return result
