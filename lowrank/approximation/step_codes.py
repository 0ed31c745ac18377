"""Codes of a matrix for given quantization steps, as an entropy code stores them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lowrank.approximation.code_laws import fit_law, fit_laws
from lowrank.approximation.rate_distortion import Coding, Matrix
from lowrank.approximation.step_curve import Candidate
from lowrank.factorizations import EntropyCoded
from lowrank.factorizations.laws import LARGEST_CODE, Exponents
from lowrank.norms import Norm
from lowrank.numerics.normalised import Normalised
from lowrank.numerics.pieces import matrices_at_once

# A weight within this many powers of two of the largest number of its dtype may be nearest to a
# level above that number.
NEAR = 4


class StepCodes:
    """The codes of a weight for any step, and the factorizations of them.

    Attributes:
        unit: the weight over a power of two, float64 (out, in).
        matrix: the same, as the rounding takes it.
        mean: that of the codes' centre: weights about 0 are coded from there, those of one sign
            from their mean.
        spread: the standard deviation, or the mean's magnitude if there is none.

    Args:
        norm: of the error.
    """

    def __init__(self, weight: Normalised, norm: Norm) -> None:
        self.unit, self.exponent = weight.unit, weight.exponent
        self.matrix = Matrix(self.unit, norm)
        self.dtype = weight.weight.dtype
        self.count = self.unit.numel()
        mean, spread = float(self.matrix.weight.mean()), float(self.matrix.weight.std(correction=0))
        self.spread = spread or abs(mean)
        self.mean = mean if abs(mean) >= spread else 0.0
        self.limit = self._largest_values()

    def centre(self, step: float) -> int:
        """The code that stands for the mean; 0 if that is below a step."""
        # A step that was snapped may be a rounding too large.
        return int(self.mean / step * (1 + 2.0**-40))

    def snapped(self, step: float) -> float:
        """The next step, not below this one, of which the mean is a multiple if it has a code."""
        centre = self.centre(step)
        return self.mean / centre if centre else step

    def plain(self) -> Exponents:
        """One step for all."""
        return Exponents(*(torch.zeros(n, dtype=torch.int64) for n in self.unit.shape))

    def rounded(self, steps: Sequence[float]) -> Tensor:
        """Each weight rounded by itself, codes from the centre, (in, k, out)."""
        codes = (self.matrix.weight[:, None] / self._column(steps)).round_()
        return codes.sub_(self._column(self._centres(steps)))

    def candidates(
        self, steps: Sequence[float], sweeps: int, guide: Candidate | None = None
    ) -> list[Candidate]:
        """Codes of each step that cost little in error and bits.

        What a code takes depends on the others. The law is that of codes which are simply rounded,
        then that of those chosen by it; to go on would make rare codes ever rarer.

        Args:
            guide: of a step near these, whose law is taken for them too. A law of their own jumps
                from one step to the next, as few laws are tried, and so would their bits.
        """
        together = matrices_at_once(self.count, self.unit.device)
        parts = [steps[first : first + together] for first in range(0, len(steps), together)]
        return [found for part in parts for found in self._together(part, sweeps, guide)]

    def written(self, candidate: Candidate) -> EntropyCoded:
        """The factorization of a candidate."""
        law, spreads = candidate.laws.of(candidate.place)
        centre = self.centre(candidate.step)
        return EntropyCoded.of(
            candidate.codes.T.long() + centre,
            (candidate.step, self.matrix.steps),
            (replace(law, centre=centre), spreads),
            self.dtype,
            self.exponent,
        )

    def form(
        self, codes: Tensor, step: float, centre: int = 0, steps: Exponents | None = None
    ) -> EntropyCoded:
        """The factorization of codes (in, out), counted from the centre.

        Args:
            steps: factors of the step; those of the matrix if not given.
        """
        law, spreads, _ = fit_law(codes.T)
        levels = step, steps or self.matrix.steps
        coding = replace(law, centre=centre), spreads
        whole = codes.T.long() + centre
        return EntropyCoded.of(whole, levels, coding, self.dtype, self.exponent)

    def values(self, codes: Tensor, step: float) -> Tensor:
        """The matrix (out, in) of codes (in, out) from the centre."""
        whole = codes + self.centre(step)
        return (whole * step).T * self.matrix.steps.factors(torch.float64)

    def _together(
        self, steps: Sequence[float], sweeps: int, guide: Candidate | None
    ) -> list[Candidate]:
        """`_candidates` in one pass."""
        centre = self._column(self._centres(steps))[:, 0]
        if guide is None:
            tried = [fit_laws(self.rounded(steps))]
            tried.append(fit_laws(self.matrix.round(steps, Coding(tried[0], centre))))
            coding = Coding(tried[1], centre)
        else:
            ratios = [step / guide.step for step in steps]
            tried, coding = [], Coding(guide.by.at(guide.place, ratios), centre)
        codes = self.matrix.round(steps, coding)
        for _ in range(sweeps if self.matrix.factor is not None else 0):
            self.matrix.sweep(codes, steps, coding)
        if self.limit is not None:
            codes = self._within_range(codes, steps)
        laws = fit_laws(codes)
        sizes = zip(laws.largest, *(of.largest for of in tried), strict=True)
        stored = [all(size <= LARGEST_CODE for size in of) for of in sizes]
        return [
            Candidate(step, codes[:, place], laws, place, coding.laws, stored[place])
            for place, step in enumerate(steps)
        ]

    def _within_range(self, codes: Tensor, steps: Sequence[float]) -> Tensor:
        """Codes (in, k, out) whose levels the dtype of the weight holds, the nearest to these."""
        assert self.limit is not None
        most = (self.limit[:, None] / self._column(steps)).floor()
        centre = self._column(self._centres(steps))
        return torch.minimum(torch.maximum(codes, -most - centre), most - centre)

    def _largest_values(self) -> Tensor | None:
        """The largest magnitude of each entry in its dtype, (in, out); None if none is near it."""
        largest = torch.finfo(self.dtype).max
        if self.exponent < math.frexp(largest)[1] - NEAR:
            return None
        # Less what rounding to the digits of a step and to those of float32 can add.
        within = math.ldexp(largest, -self.exponent) * (1 - 2.0**-20)
        return within / self.matrix.steps.factors(torch.float64).T

    def _centres(self, steps: Sequence[float]) -> list[float]:
        return [float(self.centre(step)) for step in steps]

    def _column(self, numbers: Sequence[float]) -> Tensor:
        return self.matrix.weight.new_tensor(numbers)[:, None]
