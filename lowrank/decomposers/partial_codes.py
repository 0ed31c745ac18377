"""Codes of some of the entries: what bytes buy where all codes together are too many.

Weights of few sizes, such as ±1, round to 0 together: with a step a little smaller all have codes,
which may take too many bytes, with one a little larger none. Between lie matrices of which some
entries keep their codes; whole rows or columns of zeros take next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.decomposers.code_laws import fit_law
from lowrank.factorizations.entropy_coded import least_bytes
from lowrank.factorizations.laws import Exponents

# Halvings of the number of entries that keep their codes.
HALVINGS = 9


@dataclass(frozen=True)
class Levels:
    """Codes of a matrix that may be too many.

    Attributes:
        codes: shape (out, in), float64, from the centre.
        step: between levels.
        centre: the code that stands for no code.
        steps: factors of the step.
    """

    codes: Tensor
    step: float
    centre: int
    steps: Exponents

    def values(self) -> Tensor:
        """What the codes stand for, (out, in)."""
        return (self.codes + self.centre) * self.step * self.steps.factors(torch.float64)

    def within(self, weight: Tensor, counts: Tensor, budget: int) -> Iterator[Levels]:
        """The codes of as many entries as about fit, those that lower the error most.

        Once of single entries, once of whole columns and once of whole rows.

        Args:
            weight: that they stand for, (out, in).
            counts: what each squared error counts, of that shape.
            budget: in bytes.
        """
        none = Levels(torch.zeros_like(self.codes), self.step, self.centre, self.steps)
        gains = (weight - none.values()).square() - (weight - self.values()).square()
        gains *= counts
        for order in orders(gains):
            low, high = 0, len(order)
            for _ in range(HALVINGS):
                middle = (low + high + 1) // 2
                fits = self._only(order[:middle]).fits(budget)
                low, high = (middle, high) if fits else (low, middle - 1)
                if low >= high:
                    break
            if low:
                yield self._only(order[:low]).rescaled(weight, counts)

    def fits(self, budget: int) -> bool:
        """Whether the codes should take no more than so many bytes."""
        return fit_law(self.codes)[2] / 8 + least_bytes(self.codes.numel()) <= budget

    def rescaled(self, weight: Tensor, counts: Tensor) -> Levels:
        """With the step of least squares."""
        values = self.values()
        size = float((counts * values.square()).sum())
        ratio = float((counts * values * weight).sum()) / size if size else 0.0
        return Levels(self.codes, self.step * ratio, self.centre, self.steps) if ratio > 0 else self

    def _only(self, places: Tensor) -> Levels:
        """Of these entries, in the order of rows."""
        codes = torch.zeros_like(self.codes).flatten()
        codes[places] = self.codes.flatten()[places]
        return Levels(codes.view(self.codes.shape), self.step, self.centre, self.steps)


def orders(gains: Tensor) -> Sequence[Tensor]:
    """In which orders entries may get their codes: places in a matrix, row by row."""
    rows, columns = gains.shape
    places = torch.arange(gains.numel(), device=gains.device).view(rows, columns)
    by_column = places.T.flatten()
    single = by_column[gains.flatten()[by_column].argsort(descending=True, stable=True)]
    down = gains.sum(dim=0).argsort(descending=True, stable=True)
    across = gains.sum(dim=1).argsort(descending=True, stable=True)
    return single, places[:, down].T.flatten(), places[across].flatten()
