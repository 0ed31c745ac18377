"""What is known in a search for a quantization step: what steps leave over, and the best one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lowrank.approximation.code_laws import Laws
from lowrank.factorizations import EntropyCoded

# How many bits a weight saves where the step doubles, if nothing is known; and what is believed.
SLOPE, SLOPES = 1.0, (0.05, 1.2)
# A point this far from the curve, in bits for each weight, shows that the curve has a jump there.
JUMP = 0.03
# The curve is followed this far beyond its ends, in bits for each weight and in powers of two.
TRUSTED, FARTHEST = 0.1, 0.5


@dataclass(frozen=True)
class Candidate:
    """Codes of a matrix for a step.

    Attributes:
        step: between levels.
        codes: from the centre, (in, out).
        laws, place: their law is the one of that place.
        by: the laws by which they were chosen.
        is_stored: whether they are small enough.
    """

    step: float
    codes: Tensor
    laws: Laws
    place: int
    by: Laws
    is_stored: bool


@dataclass(frozen=True)
class Best:
    """A candidate that fits, its factorization, and the bits for each weight that it leaves."""

    candidate: Candidate
    form: EntropyCoded
    spare: float


class TriedSteps:
    """The steps that were tried, and the smallest that fits.

    Attributes:
        spares: the bits for each weight that each step leaves over, about where it was not written.
        best: the smallest step that fits; None before one is found.
    """

    def __init__(self) -> None:
        self.spares: dict[float, float] = {}
        self.best: Best | None = None
        self._sketched: dict[float, float] = {}
        self._beyond: set[float] = set()

    def sketch(self, candidate: Candidate, spare: float) -> None:
        """A candidate without sweeps, which may be tried again, and about what it leaves over."""
        self._sketched[candidate.step] = spare
        if not candidate.is_stored:
            self._beyond.add(candidate.step)

    def new(self, steps: Iterable[float]) -> list[float]:
        """Those that were not tried, each once."""
        return [step for step in dict.fromkeys(steps) if step not in self.spares]

    def is_smaller(self, step: float) -> bool:
        """Whether a step is smaller than the best."""
        return self.best is None or step < self.best.candidate.step

    def add(self, candidate: Candidate, spare: float) -> None:
        """A candidate and about what it leaves over."""
        self.spares.setdefault(candidate.step, spare)
        if not candidate.is_stored:
            self._beyond.add(candidate.step)

    def write(self, candidate: Candidate, form: EntropyCoded, spare: float) -> None:
        """A candidate that is smaller than the best, its form, and what that leaves over."""
        self.spares[candidate.step] = spare
        if spare >= 0:
            self.best = Best(candidate, form, spare)

    @property
    def gap(self) -> tuple[float, float] | None:
        """The largest step that does not fit below the smallest that does; None if not known."""
        if self.best is None:
            return None
        high = self.best.candidate.step
        known = self._sketched | self.spares
        low = max((s for s, left in known.items() if left < 0 and s < high), default=None)
        return None if low is None else (low, high)

    @property
    def limited(self) -> bool:
        """Whether no smaller step is taken because its codes are too large to be stored."""
        gap = self.gap
        return gap is not None and gap[0] in self._beyond


class StepCurve:
    """The bits for each weight that steps leave over, which grow with the step: straight lines
    between the logarithms of steps that were tried, moved by what other tries were off.

    Attributes:
        steps: of its points.
        jumps: whether the last tries were far off.
    """

    def __init__(self) -> None:
        self._points: dict[float, float] = {}
        self.steps: set[float] = set()
        self._offset = 0.0
        self.jumps = False

    def add(self, step: float, spare: float) -> None:
        """A point of the curve."""
        self.steps.add(step)
        self._points[math.log2(step)] = spare

    def reaches(self, spare: float) -> bool:
        """Whether points are on either side of this, or at least near."""
        values = self._points.values()
        return min(values) - TRUSTED < spare < max(values) + TRUSTED

    def step_for(self, spare: float) -> float:
        """The step that leaves this over."""
        spare -= self._offset
        points = sorted(self._points.items())
        low = max((p for p in points if p[1] < spare), default=None)
        high = min((p for p in points if p[1] >= spare and (low is None or p > low)), default=None)
        if low is not None and high is not None:
            share = (spare - low[1]) / (high[1] - low[1])
            return 2.0 ** (low[0] + share * (high[0] - low[0]))
        near, pair = (points[-1], points[-2:]) if high is None else (points[0], points[:2])
        far = (spare - near[1]) / self._slope(pair)
        return 2.0 ** (near[0] + min(FARTHEST, max(-FARTHEST, far)))

    def about(
        self, spare: float, spread: float, gap: tuple[float, float] | None
    ) -> tuple[float, ...]:
        """Three steps that should leave about this over, `spread` apart.

        Args:
            gap: between which steps the one lies, if it is known. Where the curve has a jump, the
                gap is divided evenly.
        """
        if self.jumps and gap is not None:
            low, high = map(math.log2, gap)
            return tuple(2.0 ** (low + (high - low) * part / 4) for part in (1, 2, 3))
        return tuple(self.step_for(spare + part * spread) for part in (-1, 0, 1))

    def learn(self, spares: dict[float, float], steps: Sequence[float]) -> None:
        """Move the curve by how far some of the steps that were tried are off it."""
        missed = [spares[step] - self._at(math.log2(step)) for step in steps]
        self.jumps = max(map(abs, missed)) > JUMP
        self._offset += sum(missed) / len(missed)

    def _at(self, place: float) -> float:
        points = sorted(self._points.items())
        after = next((i for i, point in enumerate(points) if point[0] > place), len(points))
        pair = points[max(0, min(after, len(points) - 1) - 1) :][:2]
        near = pair[0]
        inside = 0 < after < len(points)
        slope = (pair[1][1] - near[1]) / (pair[1][0] - near[0]) if inside else self._slope(pair)
        if after == len(points):
            near = points[-1]
        return near[1] + slope * (place - near[0]) + self._offset

    @staticmethod
    def _slope(points: Sequence[tuple[float, float]]) -> float:
        """The slope beyond the end of the curve."""
        if len(points) < 2:
            return SLOPE
        (x, y), (far, other) = points
        return min(SLOPES[1], max(SLOPES[0], (other - y) / (far - x)))


class Secant:
    """Steps that are tried in turn, and the bits for each weight that they leave over.

    Args:
        wanted: to be left over.
    """

    def __init__(self, wanted: float) -> None:
        self.wanted = wanted
        self.exponent: list[float] = []
        self.spare: list[float] = []

    def next(self, step: float, spare: float) -> float:
        """A step that should leave as much as wanted, from one that leaves `spare`.

        By the secant through the last two, or half-way between those that are nearest on either
        side.
        """
        self.exponent.append(math.log2(step))
        self.spare.append(spare)
        points = sorted(zip(self.exponent, self.spare, strict=True))
        slope = SLOPE
        if len(points) > 1 and abs(self.exponent[-1] - self.exponent[-2]) > 0.02:
            rise = self.spare[-1] - self.spare[-2]
            run = self.exponent[-1] - self.exponent[-2]
            slope = min(SLOPES[1], max(SLOPES[0], rise / run))
        wanted = self.exponent[-1] + (self.wanted - spare) / slope
        low = max((x for x, left in points if left < 0), default=-math.inf)
        high = min((x for x, left in points if left >= 0), default=math.inf)
        if low < high and not low < wanted < high:
            wanted = (low + high) / 2
        return 2.0**wanted
