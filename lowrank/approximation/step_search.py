"""Search for the smallest quantization step with which an entropy-coded matrix fits its bytes."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lowrank.approximation.code_laws import fit_law
from lowrank.approximation.partial_codes import PartialCodes
from lowrank.approximation.rate_distortion import Coding, Matrix
from lowrank.factorizations import EntropyCoded
from lowrank.factorizations.laws import LARGEST_CODE, Exponents
from lowrank.norms import Norm
from lowrank.numerics.multiples import as_multiples, is_beyond
from lowrank.numerics.normalised import Normalised

# The search ends at a step that leaves over at most this many bits for each weight.
TOLERANCE = 0.004
# The most steps that are tried: with codes rounded to nearest, then with rate-distortion rounding.
QUICK, FULL = 8, 12
# The share of the bytes that may be left over before codes of some entries are tried, and the
# divisors of the step for these.
UNSPENT, SMALLER = 0.05, (1.05, 1.5, 2.5)
# The factor by which a step grows when no tried one fits.
GROWTH = 1.05
# The bits for each weight that a step is taken to exceed the budget by, if its codes are beyond
# `LARGEST_CODE` and cannot be stored.
BEYOND = 1.0
# A fit of the step goes on while it lowers the error to less than this share.
WORTH = 0.95
# A weight within this many powers of two of the largest number of its dtype may be nearest to a
# level above that number.
NEAR = 4
LIMITED = f"codes end at {LARGEST_CODE}: bits are left over"


class StepSearch:
    """The smallest step with which a weight takes at most `budget` bytes.

    Args:
        weight: to be approximated.
        norm: of the error.
        budget: in bytes.
        sweeps: after rounding.
    """

    def __init__(self, weight: Normalised, norm: Norm, budget: int, sweeps: int) -> None:
        self.unit, self.exponent = weight.unit, weight.exponent
        self.matrix = Matrix(self.unit, norm)
        self.budget = budget
        self.sweeps = sweeps
        self.norm = norm
        self.dtype = weight.weight.dtype
        self.count = self.unit.numel()
        mean, spread = float(self.matrix.weight.mean()), float(self.matrix.weight.std(correction=0))
        self.spread = spread or abs(mean)
        self.limit = self._largest_values()
        # Weights about 0 are coded from there, those of one sign from their mean.
        self.mean = mean if abs(mean) >= spread else 0.0

    def run(self) -> tuple[EntropyCoded, Tensor]:
        """The form of the smallest step found to fit, and its matrix (out, in), float64.

        The matrix approximates `unit`. The budget must be at least `least_bytes`.
        """
        none = torch.zeros_like(self.matrix.weight)
        nothing = self._form(none, 1.0, steps=self._plain()), torch.zeros_like(self.unit)
        if not bool(self.unit.any()):
            return nothing
        exact = self._exact()
        if exact is not None:
            return exact, self.unit
        step, form, found = self.spread, *nothing
        # With exponents of the steps even codes that are all 0 may be too many.
        if self._spare(self._form(none, 1.0)) >= 0:
            step, form, found = self._smallest()
        return self._of_some_entries(step, *self._nearer_than_mean(form, found))

    def _largest_values(self) -> Tensor | None:
        """The largest magnitude of each entry in its dtype, (in, out); None if none is near it."""
        largest = torch.finfo(self.dtype).max
        if self.exponent < math.frexp(largest)[1] - NEAR:
            return None
        # Less what rounding to the digits of a step and to those of float32 can add.
        within = math.ldexp(largest, -self.exponent) * (1 - 2.0**-20)
        return within / self.matrix.steps.factors(torch.float64).T

    def _smallest(self) -> tuple[float, EntropyCoded, Tensor]:
        step, tried = self._quick(), Tried()
        best: tuple[EntropyCoded, Tensor] | None = None
        least, notes = math.inf, ()
        while best is None or len(tried.spare) < FULL:
            step = self._snapped(step)
            codes = self._codes(step)
            if codes is None:
                spare, notes = -BEYOND, (LIMITED,)
            else:
                form = self._form(codes, step, self._centre(step))
                spare = self._spare(form)
                if spare >= 0 and step < least:
                    best, least = (form, codes), step
            if 0 <= spare <= TOLERANCE:
                notes = ()
                break
            step = tried.next(step, spare) if len(tried.spare) < FULL else step * GROWTH
        assert best is not None
        form, found = self._fitted(best[0], best[1], least)
        form.notes = notes
        return least, form, found

    def _of_some_entries(
        self, step: float, form: EntropyCoded, found: Tensor
    ) -> tuple[EntropyCoded, Tensor]:
        """An approximation, or, if it leaves bytes over, a nearer one with a smaller step and codes
        for only some entries."""
        if 8 * self.budget / self.count * UNSPENT > self._spare(form):
            return form, found
        plain, steps = self._plain(), self.matrix.steps
        whole = [PartialCodes(*each, plain) for each in as_multiples(self.unit, LARGEST_CODE)]
        for smaller in (self._snapped(step / factor) for factor in SMALLER):
            codes = self._rounded(smaller)
            if not is_beyond(codes, LARGEST_CODE):
                whole.append(PartialCodes(codes.T, smaller, self._centre(smaller), steps))
        counts = self.norm.entry_weights(self.unit).expand(self.unit.shape)
        error = self.norm(self.unit - found)
        for some in (s for of in whole for s in of.within(self.unit, counts, self.budget)):
            other = self._form(some.codes.T, some.step, some.centre, some.steps)
            if self._spare(other) < 0:
                continue
            values = some.values()
            its_error = self.norm(self.unit - values)
            if its_error < error:
                form, found, error = other, values, its_error
        return form, found

    def _exact(self) -> EntropyCoded | None:
        """The weight without error, if its values are multiples of one step and that fits."""
        found = [
            self._form(codes.T, step, centre, self._plain())
            for codes, step, centre in as_multiples(self.unit, LARGEST_CODE)
        ]
        fitting = [form for form in found if self._spare(form) >= 0]
        return min(fitting, key=lambda form: form.nbytes, default=None)

    def _nearer_than_mean(self, form: EntropyCoded, found: Tensor) -> tuple[EntropyCoded, Tensor]:
        """An approximation, or the mean everywhere if it is nearer; that takes almost no bytes."""
        mean = float(self.unit.mean())
        everywhere = torch.full_like(self.unit, mean)
        if not self.mean or self.norm(self.unit - found) <= self.norm(self.unit - everywhere):
            return form, found
        none = torch.zeros_like(self.matrix.weight)
        sign = 1 if mean > 0 else -1
        return self._form(none, abs(mean), sign, self._plain()), everywhere

    def _plain(self) -> Exponents:
        """One step for all."""
        return Exponents(*(torch.zeros(n, dtype=torch.int64) for n in self.unit.shape))

    def _quick(self) -> float:
        """A step with which the codes about fit if weights are simply rounded."""
        tried, step = Tried(), self.spread * 2 ** (2 - 8 * self.budget / self.count)
        while True:
            step = self._snapped(step)
            codes = self._rounded(step)
            if is_beyond(codes, LARGEST_CODE):
                spare = -BEYOND
            else:
                spare = (8 * self.budget - fit_law(codes.T)[2]) / self.count
            if abs(spare) < 0.05 or len(tried.spare) == QUICK:
                return step
            step = tried.next(step, spare)

    def _centre(self, step: float) -> int:
        """The code that stands for the mean; 0 if that is below a step."""
        # A step that was snapped may be a rounding too large.
        return int(self.mean / step * (1 + 2.0**-40))

    def _snapped(self, step: float) -> float:
        """The next step, not below this one, of which the mean is a multiple if it has a code."""
        centre = self._centre(step)
        return self.mean / centre if centre else step

    def _rounded(self, step: float) -> Tensor:
        """Each weight rounded by itself, codes from the centre, (in, out)."""
        return (self.matrix.weight / step).round() - self._centre(step)

    def _codes(self, step: float) -> Tensor | None:
        """Codes (in, out) that cost little in error and bits; none if some are too large.

        What a code takes depends on the others. The law is that of codes which are simply rounded,
        then that of those chosen by it; to go on would make rare codes ever rarer.
        """
        codes, centre = self._rounded(step), self._centre(step)
        for _ in range(2):
            if is_beyond(codes, LARGEST_CODE):
                return None
            law, spreads, _ = fit_law(codes.T)
            coding = Coding(replace(law, centre=centre), spreads)
            codes = self.matrix.round(step, coding)
        for _ in range(self.sweeps if self.matrix.factor is not None else 0):
            self.matrix.sweep(codes, step, coding)
        return None if is_beyond(codes, LARGEST_CODE) else self._within_range(codes, step)

    def _within_range(self, codes: Tensor, step: float) -> Tensor:
        """Codes whose levels the dtype of the weight holds, the nearest to these."""
        if self.limit is None:
            return codes
        most, centre = (self.limit / step).floor(), self._centre(step)
        return torch.minimum(torch.maximum(codes, -most - centre), most - centre)

    def _fitted(
        self, form: EntropyCoded, codes: Tensor, step: float
    ) -> tuple[EntropyCoded, Tensor]:
        """The form and the matrix after alternating least squares: the step, then the codes for it.

        Ends where the error no longer falls much. With many levels the gain is negligible; with
        few, as of ternary weights, nearly all of the error may come from the step.
        """
        found = self._values(codes, step)
        error = self.norm(self.unit - found)
        while True:
            ratio = self._ratio(found)
            fitted = ratio * found
            if ratio <= 0 or self.norm(self.unit - fitted) > WORTH * error:
                return form, found
            form = self._form(codes, step * ratio, self._centre(step))
            found, error = fitted, self.norm(self.unit - fitted)
            step = self._snapped(step * ratio)
            again = self._codes(step)
            if again is None:
                return form, found
            other, values = self._form(again, step, self._centre(step)), self._values(again, step)
            if self._spare(other) < 0 or self.norm(self.unit - values) > WORTH * error:
                return form, found
            form, codes, found, error = other, again, values, self.norm(self.unit - values)

    def _values(self, codes: Tensor, step: float) -> Tensor:
        """The matrix (out, in) of codes (in, out) from the centre."""
        whole = codes + self._centre(step)
        return (whole * step).T * self.matrix.steps.factors(torch.float64)

    def _ratio(self, found: Tensor) -> float:
        """The factor with which an approximation is nearest to the weight; 0 if it is zero."""
        size = self.norm(found)
        # ‖a + b‖² − ‖a − b‖² = 4 ⟨a, b⟩.
        both, less = self.norm(self.unit + found), self.norm(self.unit - found)
        return (both**2 - less**2) / (4 * size**2) if size else 0.0

    def _form(
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

    def _spare(self, form: EntropyCoded) -> float:
        """Bits for each weight that are left over."""
        return 8 * (self.budget - form.nbytes) / self.count


class Tried:
    """Steps, and the bits for each weight that they leave over, which grow with the step."""

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
