"""Codes of some of the entries of a matrix, where codes of all entries take too many bytes.

Weights of equal magnitude, such as ±1, round to 0 at the same step. With a slightly smaller step
all of them have codes, which may take too many bytes; with a slightly larger step none has one.
Between the two lie matrices of which only some entries have codes. Rows and columns of zeros take
almost no bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowrank.approximation.code_laws import fit_law
from lowrank.factorizations.entropy_coded import least_bytes
from lowrank.factorizations.laws import Exponents

# Halvings of the number of entries that keep their codes.
HALVINGS = 9


@dataclass(frozen=True)
class PartialCodes:
    """Codes of a matrix, of which some entries can be left without one to save bytes.

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
        """The matrix of the codes, (out, in)."""
        return (self.codes + self.centre) * self.step * self.steps.factors(torch.float64)

    def within(self, weight: Tensor, counts: Tensor, budget: int) -> Iterator[PartialCodes]:
        """The codes of about as many entries as fit, those that lower the error most.

        Three results: of single entries, of whole columns and of whole rows.

        Args:
            weight: that they stand for, (out, in).
            counts: what each squared error counts, of that shape.
            budget: in bytes.
        """
        none = replace(self, codes=torch.zeros_like(self.codes))
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
        """Whether the codes take at most `budget` bytes, by their law."""
        return fit_law(self.codes)[2] / 8 + least_bytes(self.codes.numel()) <= budget

    def rescaled(self, weight: Tensor, counts: Tensor) -> PartialCodes:
        """With the step of least squares."""
        values = self.values()
        size = float((counts * values.square()).sum())
        ratio = float((counts * values * weight).sum()) / size if size else 0.0
        return replace(self, step=self.step * ratio) if ratio > 0 else self

    def _only(self, places: Tensor) -> PartialCodes:
        """The codes of these entries (places row by row), zero elsewhere."""
        codes = torch.zeros_like(self.codes).flatten()
        codes[places] = self.codes.flatten()[places]
        return replace(self, codes=codes.view(self.codes.shape))


def orders(gains: Tensor) -> Sequence[Tensor]:
    """Orders in which entries get their codes: places in a matrix, counted row by row."""
    rows, columns = gains.shape
    places = torch.arange(gains.numel(), device=gains.device).view(rows, columns)
    by_column = places.T.flatten()
    single = by_column[gains.flatten()[by_column].argsort(descending=True, stable=True)]
    down = gains.sum(dim=0).argsort(descending=True, stable=True)
    across = gains.sum(dim=1).argsort(descending=True, stable=True)
    return single, places[:, down].T.flatten(), places[across].flatten()
