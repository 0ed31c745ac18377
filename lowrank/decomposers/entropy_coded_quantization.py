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
from lowrank.norms import Norm

# Bits for each weight that may be left over where no step is found that leaves fewer.
TOLERANCE = 0.004
# Steps that are tried at most: with codes as they are, then with all that is done to them.
QUICK, FULL = 8, 12
# By how much a step grows at a time where no other one fits.
GROWTH = 1.02


@dataclass(frozen=True)
class EntropyCodedQuantization(Decomposer):
    """W ≈ code · step, the codes any integers, stored in the bits that they carry.

    One step for the whole matrix and an entropy code take the place of few levels and a scale for
    each group. In the full norm the columns are rounded in turn and later ones make up for errors,
    as in `GPTQ`; but each code is the one for which error and bits together cost least, and rows
    and columns have coarser steps where their errors count less, if that pays. At the same bytes
    the squared error is less than half that of `GPTQ` with groups of 64, and any number of bits can
    be had: nothing else here stores a matrix as well in fewer than 6 bits. Of what is left to gain,
    a quarter of a bit would take quantizing many weights at once.

    It saves bytes, not time: a matrix is decoded when it is first used. Where codes must have one
    width, for kernels that compute with them, take `GPTQ`.

    The step is the smallest found with which the matrix takes no more than `bits`; mostly all but
    0.004 bits of them are used.

    Args:
        bits: of each weight, all that is stored counted; above 0, at most 10.
        sweeps: over the columns after they have been rounded, in the full norm, at least 0: each
            code is chosen anew, as the errors of the others want it. Each takes as long as
            rounding.

    Raises:
        ValueError: bits out of range, or too few to say that all codes are 0, or so many that codes
            pass 2^13.

    Source: Gish & Pierce, IEEE Trans. Inf. Theory 1968 (evenly spaced levels and entropy codes);
    Sullivan & Wiegand, IEEE Signal Processing Magazine 1998 (choosing by error and rate);
    Frantar, Ashkboos, Hoefler & Alistarh, ICLR 2023 (compensation); Behdin et al., 2023 (sweeps).
    """

    bits: float
    sweeps: int = 2

    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)

    def __post_init__(self) -> None:
        check_number("bits", self.bits, "lie in (0, 10]", lambda x: 0 < x <= 10)
        check_integer("sweeps", self.sweeps, least=0)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        matrix = Matrix(weight, norm)
        search = Search(matrix, int(self.bits * weight.numel() / 8), self.sweeps, weight.dtype)
        result = search.run()
        result.note = raised(matrix.share)
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
        best = nothing
        while best is nothing or len(tried.spare) < FULL:
            form = self._form(self._codes(step), step)
            spare = self._spare(form)
            if spare >= 0 and (best is nothing or step < best.step):
                best = form
            if 0 <= spare <= TOLERANCE:
                break
            step = tried.next(step, spare) if len(tried.spare) < FULL else step * GROWTH
        return best

    def _quick(self) -> float:
        """A step with which the codes about fit if weights are simply rounded."""
        tried, step = Tried(), float(self.matrix.weight.std(correction=0))
        step *= 2 ** (2 - 8 * self.budget / self.count)
        while True:
            bits = fit_law((self.matrix.weight / step).round().T)[2]
            spare = (8 * self.budget - bits) / self.count
            if abs(spare) < 0.05 or len(tried.spare) == QUICK:
                return step
            step = tried.next(step, spare)

    def _codes(self, step: float) -> Tensor:
        """Codes (in, out) that cost little in error and bits.

        What a code takes depends on the others. The law is that of codes which are simply rounded,
        then that of those chosen by it; to go on would make rare codes ever rarer.
        """
        coding = Coding(*fit_law((self.matrix.weight / step).round().T)[:2])
        coding = Coding(*fit_law(self.matrix.round(step, coding).T)[:2])
        codes = self.matrix.round(step, coding)
        for _ in range(self.sweeps if self.matrix.factor is not None else 0):
            self.matrix.sweep(codes, step, coding)
        return codes

    def _form(self, codes: Tensor, step: float) -> EntropyCoded:
        law, spreads, _ = fit_law(codes.T)
        levels = step, self.matrix.steps
        return EntropyCoded.of(codes.T.long(), levels, (law, spreads), self.dtype)

    def _spare(self, form: EntropyCoded) -> float:
        """Bits for each weight that are left over."""
        return 8 * (self.budget - nbytes(form)) / self.count


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
