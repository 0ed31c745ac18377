"""Search for the smallest quantization step with which an entropy-coded matrix fits its bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lowrank.approximation.code_laws import fit_laws
from lowrank.approximation.partial_codes import PartialCodes
from lowrank.approximation.step_codes import StepCodes
from lowrank.approximation.step_curve import Best, Candidate, Secant, StepCurve, TriedSteps
from lowrank.factorizations import EntropyCoded
from lowrank.factorizations.entropy_coded import least_bytes
from lowrank.factorizations.laws import LARGEST_CODE, width
from lowrank.factorizations.packing import packed_bytes
from lowrank.norms import Norm
from lowrank.numerics.multiples import as_multiples, is_beyond
from lowrank.numerics.normalised import Normalised

# The search ends at a step that leaves over at most this many bits for each weight.
TOLERANCE = 0.004
# The most steps that are tried with codes rounded to nearest.
QUICK = 8
# Of the steps that are tried together without sweeps, their powers of two: rate-distortion rounding
# saves up to a quarter of a bit.
SKETCH = ((0.0, -0.12, -0.26), (0.12, 0.0, -0.12), (0.12, 0.0, -0.12))
# How far apart, in bits for each weight, the steps lie that are then tried together, three a time.
SPREADS = (0.004, 0.003, 0.002, 0.0015)
# Bits for each weight by which a stream may turn out shorter than by the law of its codes.
UNSURE = 0.002
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
        self.codes = StepCodes(weight, norm)
        self.unit, self.matrix = self.codes.unit, self.codes.matrix
        self.budget = budget
        self.sweeps = sweeps
        self.norm = norm
        self.count = self.unit.numel()
        # Bytes of the exponents of the steps, and bits for each weight by which streams turned out
        # longer than by the laws of their codes.
        parts = (self.matrix.steps.row, self.matrix.steps.column)
        self.besides = sum(packed_bytes(len(part), width(part)) for part in parts)
        self.unforeseen = 0.0

    def run(self) -> tuple[EntropyCoded, Tensor]:
        """The form of the smallest step found to fit, and its matrix (out, in), float64.

        The matrix approximates `unit`. The budget must be at least `least_bytes`.
        """
        if not bool(self.unit.any()):
            return self._nothing()
        exact = self._exact()
        if exact is not None:
            return exact, self.unit
        # With exponents of the steps even codes that are all 0 may be too many.
        if self.besides + least_bytes(self.count) <= self.budget:
            step, form, found = self._smallest()
        else:
            step, form, found = self.codes.spread, *self._nothing()
        return self._of_some_entries(step, *self._nearer_than_mean(form, found))

    def _nothing(self) -> tuple[EntropyCoded, Tensor]:
        """All codes 0."""
        none = torch.zeros_like(self.matrix.weight)
        return self.codes.form(none, 1.0, steps=self.codes.plain()), torch.zeros_like(self.unit)

    def _smallest(self) -> tuple[float, EntropyCoded, Tensor]:
        """The smallest step found that fits, its form and its matrix.

        First a sketch of the bits by steps, without sweeps; then some steps at a time about where
        the budget lies, of which only those that seem to fit are written as a stream.
        """
        found = TriedSteps()
        curve, guide = self._sketched(self._quick(), found)
        for spread in SPREADS:
            steps = found.new(
                map(self.codes.snapped, curve.about(TOLERANCE / 2, spread, found.gap))
            )
            if not steps:
                break
            # Laws of their own where the one of the sketch leads astray, as of two values.
            self._try(steps, None if curve.jumps else guide, found)
            curve.learn(found.spares, steps)
            if found.best is not None and found.best.spare <= TOLERANCE:
                break
        while found.best is None:
            last = max(found.spares)
            self._try(
                [self.codes.snapped(last * GROWTH**power) for power in (1, 2, 3)], None, found
            )
        best = found.best
        form, matrix = self._fitted(best)
        form.notes = (LIMITED,) if best.spare > TOLERANCE and found.limited else ()
        return best.candidate.step, form, matrix

    def _try(self, steps: Sequence[float], guide: Candidate | None, found: TriedSteps) -> None:
        """Find what some steps leave over, and of those that fit the smallest.

        The one that seems to leave what is wanted is written first: it shows by how much the
        streams differ from the bits of their laws.
        """
        left = self.codes.candidates(steps, self.sweeps, guide)
        likely = min(left, key=lambda c: abs(self._estimate(c) - TOLERANCE / 2))
        for candidate in (likely, *sorted(left, key=lambda c: c.step)):
            may_fit = candidate is likely or self._estimate(candidate) >= -UNSURE
            if candidate.is_stored and may_fit and found.is_smaller(candidate.step):
                form, estimate = self.codes.written(candidate), self._estimate(candidate)
                self.unforeseen += estimate - self._spare(form)
                found.write(candidate, form, self._spare(form))
        for candidate in left:
            found.add(candidate, self._estimate(candidate))

    def _sketched(self, step: float, found: TriedSteps) -> tuple[StepCurve, Candidate]:
        """About what steps leave over, from codes without sweeps; and the one most like wanted."""
        curve = StepCurve()
        known: list[Candidate] = []
        for shifts in SKETCH:
            steps = dict.fromkeys(self.codes.snapped(step * 2.0**shift) for shift in shifts)
            known += self.codes.candidates([s for s in steps if s not in curve.steps], 0)
            for candidate in known:
                curve.add(candidate.step, self._estimate(candidate))
                found.sketch(candidate, self._estimate(candidate))
            if curve.reaches(TOLERANCE / 2):
                break
            step = curve.step_for(TOLERANCE / 2)
        step = curve.step_for(TOLERANCE / 2)
        return curve, min(known, key=lambda c: abs(math.log(c.step / step)))

    def _of_some_entries(
        self, step: float, form: EntropyCoded, found: Tensor
    ) -> tuple[EntropyCoded, Tensor]:
        """An approximation, or, if it leaves bytes over, a nearer one with a smaller step and codes
        for only some entries."""
        if 8 * self.budget / self.count * UNSPENT > self._spare(form):
            return form, found
        plain, steps = self.codes.plain(), self.matrix.steps
        whole = [PartialCodes(*each, plain) for each in as_multiples(self.unit, LARGEST_CODE)]
        for smaller in (self.codes.snapped(step / factor) for factor in SMALLER):
            codes = self.codes.rounded([smaller])[:, 0]
            if not is_beyond(codes, LARGEST_CODE):
                whole.append(PartialCodes(codes.T, smaller, self.codes.centre(smaller), steps))
        counts = self.norm.entry_weights(self.unit).expand(self.unit.shape)
        error = self.norm(self.unit - found)
        for some in (s for of in whole for s in of.within(self.unit, counts, self.budget)):
            other = self.codes.form(some.codes.T, some.step, some.centre, some.steps)
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
            self.codes.form(codes.T, step, centre, self.codes.plain())
            for codes, step, centre in as_multiples(self.unit, LARGEST_CODE)
        ]
        fitting = [form for form in found if self._spare(form) >= 0]
        return min(fitting, key=lambda form: form.nbytes, default=None)

    def _nearer_than_mean(self, form: EntropyCoded, found: Tensor) -> tuple[EntropyCoded, Tensor]:
        """An approximation, or the mean everywhere if it is nearer; that takes almost no bytes."""
        mean = float(self.unit.mean())
        everywhere = torch.full_like(self.unit, mean)
        if not self.codes.mean or self.norm(self.unit - found) <= self.norm(self.unit - everywhere):
            return form, found
        none = torch.zeros_like(self.matrix.weight)
        sign = 1 if mean > 0 else -1
        return self.codes.form(none, abs(mean), sign, self.codes.plain()), everywhere

    def _quick(self) -> float:
        """A step with which the codes about fit if weights are simply rounded."""
        tried, step = (
            Secant(TOLERANCE / 2),
            self.codes.spread * 2 ** (2 - 8 * self.budget / self.count),
        )
        while True:
            step = self.codes.snapped(step)
            laws = fit_laws(self.codes.rounded([step]))
            spare = -BEYOND
            if laws.largest[0] <= LARGEST_CODE:
                spare = (8 * self.budget - laws.bits[0]) / self.count
            if abs(spare) < 0.05 or len(tried.spare) == QUICK:
                return step
            step = tried.next(step, spare)

    def _estimate(self, candidate: Candidate) -> float:
        """Bits for each weight that are left over, about."""
        if not candidate.is_stored:
            return -BEYOND
        bits = 8 * (self.budget - self.besides - least_bytes(self.count))
        return (bits - candidate.laws.bits[candidate.place]) / self.count - self.unforeseen

    def _fitted(self, best: Best) -> tuple[EntropyCoded, Tensor]:
        """The form and the matrix after alternating least squares: the step, then the codes for it.

        Ends where the error no longer falls much. With many levels the gain is negligible; with
        few, as of ternary weights, nearly all of the error may come from the step.
        """
        form, candidate = best.form, best.candidate
        found = self.codes.values(candidate.codes, candidate.step)
        error = self.norm(self.unit - found)
        while True:
            ratio = self._ratio(found)
            fitted = ratio * found
            if ratio <= 0 or self.norm(self.unit - fitted) > WORTH * error:
                return form, found
            step = candidate.step * ratio
            form = self.codes.form(candidate.codes, step, self.codes.centre(step))
            found, error = fitted, self.norm(self.unit - fitted)
            (candidate,) = self.codes.candidates([self.codes.snapped(step)], self.sweeps)
            if not candidate.is_stored:
                return form, found
            other, values = (
                self.codes.written(candidate),
                self.codes.values(candidate.codes, candidate.step),
            )
            if self._spare(other) < 0 or self.norm(self.unit - values) > WORTH * error:
                return form, found
            form, found, error = other, values, self.norm(self.unit - values)

    def _ratio(self, found: Tensor) -> float:
        """The factor with which an approximation is nearest to the weight; 0 if it is zero."""
        size = self.norm(found)
        # ‖a + b‖² − ‖a − b‖² = 4 ⟨a, b⟩.
        both, less = self.norm(self.unit + found), self.norm(self.unit - found)
        return (both**2 - less**2) / (4 * size**2) if size else 0.0

    def _spare(self, form: EntropyCoded) -> float:
        """Bits for each weight that are left over."""
        return 8 * (self.budget - form.nbytes) / self.count
