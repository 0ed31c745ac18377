"""Quantization to codes that are stored by how often they occur: any number of bits, not whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.decomposers.checks import check_integer, check_number
from lowrank.decomposers.code_laws import fit_law
from lowrank.decomposers.curvature import raised
from lowrank.decomposers.decomposer import Decomposer
from lowrank.decomposers.rate_distortion import Coding, Matrix
from lowrank.factorizations import EntropyCoded, Factorization
from lowrank.factorizations.laws import LARGEST_CODE
from lowrank.norms import Norm

# Bits for each weight that may be left over where no step is found that leaves fewer.
TOLERANCE = 0.004
# Steps that are tried at most: with codes as they are, then with all that is done to them.
QUICK, FULL = 8, 12
# By how much a step grows at a time where no other one fits.
GROWTH = 1.05
# As so many bits too many for each weight count codes beyond what can be stored.
BEYOND = 1.0
LIMITED = f"codes end at {LARGEST_CODE}: bits are left over"


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
    0.004 bits of them are used. Codes end at 2^12; where that stops a step, a note says so.

    Args:
        bits: of each weight, all that is stored counted; above 0, at most 8.
        sweeps: over the columns after they have been rounded, in the full norm, at least 0: each
            code is chosen anew, as the errors of the others want it. Each takes as long as
            rounding.

    Raises:
        ValueError: bits out of range, or too few to say that all codes are 0.

    Source: Gish & Pierce, IEEE Trans. Inf. Theory 1968 (evenly spaced levels and entropy codes);
    Sullivan & Wiegand, IEEE Signal Processing Magazine 1998 (choosing by error and rate);
    Frantar, Ashkboos, Hoefler & Alistarh, ICLR 2023 (compensation); Behdin et al., 2023 (sweeps).
    """

    bits: float
    sweeps: int = 2

    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)

    def __post_init__(self) -> None:
        check_number("bits", self.bits, "lie in (0, 8]", lambda x: 0 < x <= 8)
        check_integer("sweeps", self.sweeps, least=0)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        matrix = Matrix(weight, norm)
        search = Search(matrix, int(self.bits * weight.numel() / 8), self.sweeps, weight.dtype)
        result = search.run()
        result.note = "; ".join(filter(None, (raised(matrix.share), result.note)))
        return result


class Search:
    """The smallest step with which a matrix takes no more than so many bytes.

    Args:
        matrix: the weight.
        budget: in bytes.
        sweeps: after rounding.
        dtype: of the weight.
    """

    def __init__(self, matrix: Matrix, budget: int, sweeps: int, dtype: torch.dtype) -> None:
        self.matrix = matrix
        self.budget = budget
        self.sweeps = sweeps
        self.dtype = dtype
        self.count = matrix.weight.numel()

    def run(self) -> EntropyCoded:
        """What is stored with the smallest step that was found to fit.

        Raises:
            ValueError: not even codes that are all 0 fit.
        """
        nothing = self._form(torch.zeros_like(self.matrix.weight), 1.0)
        if self._spare(nothing) < 0:
            bits = 8 * nbytes(nothing) / self.count
            raise ValueError(
                f"{self.budget} bytes are too few for {self.count} weights, of which even codes "
                f"that are all 0 take {nbytes(nothing)}: give bits={bits:.3g} or more"
            )
        if not bool(self.matrix.weight.any()):
            return nothing
        step, tried = self._quick(), Tried()
        best, note = nothing, ""
        while best is nothing or len(tried.spare) < FULL:
            codes = self._codes(step)
            if codes is None:
                spare, note = -BEYOND, LIMITED
            else:
                form = self._form(codes, step)
                spare = self._spare(form)
                if spare >= 0 and (best is nothing or step < best.step):
                    best = form
            if 0 <= spare <= TOLERANCE:
                note = ""
                break
            step = tried.next(step, spare) if len(tried.spare) < FULL else step * GROWTH
        best.note = note
        return best

    def _quick(self) -> float:
        """A step with which the codes about fit if weights are simply rounded."""
        tried, step = Tried(), float(self.matrix.weight.std(correction=0))
        step *= 2 ** (2 - 8 * self.budget / self.count)
        while True:
            codes = self.matrix.weight / step
            if is_beyond(codes):
                spare = -BEYOND
            else:
                spare = (8 * self.budget - fit_law(codes.round().T)[2]) / self.count
            if abs(spare) < 0.05 or len(tried.spare) == QUICK:
                return step
            step = tried.next(step, spare)

    def _codes(self, step: float) -> Tensor | None:
        """Codes (in, out) that cost little in error and bits; none if some are too large.

        What a code takes depends on the others. The law is that of codes which are simply rounded,
        then that of those chosen by it; to go on would make rare codes ever rarer.
        """
        codes = (self.matrix.weight / step).round()
        for _ in range(2):
            if is_beyond(codes):
                return None
            coding = Coding(*fit_law(codes.T)[:2])
            codes = self.matrix.round(step, coding)
        for _ in range(self.sweeps if self.matrix.factor is not None else 0):
            self.matrix.sweep(codes, step, coding)
        return None if is_beyond(codes) else codes

    def _form(self, codes: Tensor, step: float) -> EntropyCoded:
        law, spreads, _ = fit_law(codes.T)
        levels = step, self.matrix.steps
        return EntropyCoded.of(codes.T.long(), levels, (law, spreads), self.dtype)

    def _spare(self, form: EntropyCoded) -> float:
        """Bits for each weight that are left over."""
        return 8 * (self.budget - nbytes(form)) / self.count


def is_beyond(codes: Tensor) -> bool:
    """Whether codes would be larger than any law reaches."""
    return not float(codes.abs().max()) <= LARGEST_CODE


class Tried:
    """Steps and how many bits for each weight they leave over: the larger the step, the more."""

    def __init__(self) -> None:
        self.exponent: list[float] = []
        self.spare: list[float] = []

    def next(self, step: float, spare: float) -> float:
        """A step that should leave half of the tolerance, from one that leaves `spare`.

        By the secant through the last two, or half-way between those that are nearest on either
        side.
        """
        self.exponent.append(math.log2(step))
        self.spare.append(spare)
        points = sorted(zip(self.exponent, self.spare, strict=True))
        slope = 1.0
        if len(points) > 1 and abs(self.exponent[-1] - self.exponent[-2]) > 0.02:
            rise = self.spare[-1] - self.spare[-2]
            slope = min(1.2, max(0.05, rise / (self.exponent[-1] - self.exponent[-2])))
        wanted = self.exponent[-1] + (TOLERANCE / 2 - spare) / slope
        low = max((x for x, left in points if left < 0), default=-math.inf)
        high = min((x for x, left in points if left >= 0), default=math.inf)
        if low < high and not low < wanted < high:
            wanted = (low + high) / 2
        return 2.0**wanted


def nbytes(form: EntropyCoded) -> int:
    """What it takes."""
    return sum(tensor.nbytes for tensor in form.state_dict().values())
