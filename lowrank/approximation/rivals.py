"""Alternatives to an entropy code at the same bytes: uniform levels, codebooks, pruning."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lowrank.approximation.rounding import Rounding, smallest_group
from lowrank.approximation.shared_levels import by_kmeans
from lowrank.factorizations import EntropyCoded, Factorization, Sparse
from lowrank.factorizations.block_grid import BlockGrid
from lowrank.factorizations.packing import BITS, packed_bytes
from lowrank.norms import Norm
from lowrank.numerics.curvature import is_diagonal
from lowrank.numerics.normalised import Normalised
from lowrank.numerics.ranking import largest_entries
from lowrank.numerics.storage import stored_dtype

# The sample of rows that is tried first has about SAMPLE weights, and at least LEAST_ROWS rows.
SAMPLE, LEAST_ROWS = 2**12, 4
# A rival is tried on all rows if its squared error on some is at most this many times that of the
# entropy code.
CHANCE = 1.25
# Centroids are searched on a sample for codebooks of at most FEW bits; more bits take long.
FEW = 4
SCALE_BYTES = 2


class Rival(ABC):
    """A form of fixed code width, an alternative to an entropy code."""

    @abstractmethod
    def made_of(self, weight: Tensor, counts: Tensor) -> Factorization:
        """The factorization of a weight (out, in); `counts` weighs squared errors."""

    @abstractmethod
    def error_on(self, sample: Sample) -> float:
        """An estimate of its squared error on a sample."""


@dataclass(frozen=True)
class UniformRival(Rival):
    """`Quantization` by least squares."""

    bits: int
    group_size: int | str
    symmetric: bool

    def made_of(self, weight: Tensor, counts: Tensor) -> Factorization:
        with suppress(ValueError):
            return self._made_of(weight, counts, "float16")
        return self._made_of(weight, counts, "bfloat16")  # Of scales beyond the range of float16.

    def error_on(self, sample: Sample) -> float:
        return sample.squared_error(self.made_of(sample.weight, sample.counts).to_dense())

    def _made_of(self, weight: Tensor, counts: Tensor, scale_dtype: str) -> Factorization:
        rounding = Rounding(self.bits, self.group_size, self.symmetric, "mse", scale_dtype)
        return rounding.nearest(weight, rounding.grid(weight, counts))


@dataclass(frozen=True)
class CodebookRival(Rival):
    """`CodebookQuantization` of the whole matrix."""

    bits: int

    def made_of(self, weight: Tensor, counts: Tensor) -> Factorization:
        del counts
        return by_kmeans(weight, self.bits, "tensor")

    def error_on(self, sample: Sample) -> float:
        if self.bits <= FEW or sample.is_whole:
            return sample.squared_error(self.made_of(sample.weight, sample.counts).to_dense())
        return float(sample.counts.mean()) * least_error(sample.weight, 2**self.bits)


def least_error(values: Tensor, levels: int) -> float:
    """An estimate of the least sum of squared errors of many levels, from the density of values.

    Distances between neighbours scatter, so it is a quarter too low and no rival is missed.

    Source: Panter & Dite, Proceedings of the IRE 39(1), 1951.
    """
    gaps = values.flatten().sort().values.diff()
    if int((gaps > 0).sum()) < levels:
        return 0.0
    root = gaps.pow(2 / 3).sum() / values.numel() ** (1 / 3)
    return values.numel() * float(root) ** 3 / (12 * levels**2)


def rivals(weight: Tensor, budget: int) -> list[Rival]:
    """The rivals that take at most `budget` bytes: levels of the two largest numbers of bits that
    fit, each in the smallest groups that fit, and the codebook of most bits."""
    shape = (weight.shape[0], weight.shape[1])
    codes = {bits: packed_bytes(weight.numel(), bits) for bits in BITS}
    codebooks = [bits for bits in BITS if codes[bits] + 2**bits * weight.itemsize <= budget]
    found: list[Rival] = [CodebookRival(bits) for bits in codebooks[-1:]]
    for bits in [bits for bits in BITS if codes[bits] + SCALE_BYTES <= budget][-2:]:
        for symmetric in (True, False):
            size = group_within(shape, bits, symmetric, budget)
            if size is not None:
                found.append(UniformRival(bits, size, symmetric))
    return found


def group_within(
    shape: tuple[int, int], bits: int, symmetric: bool, budget: int
) -> int | Literal["tensor"] | None:
    """The smallest groups whose scales, and zero points, still fit; None if none do."""
    whole = Rounding(bits, "tensor", symmetric, "mse", "float16")
    one_scale = "tensor" if whole.nbytes(shape) <= budget else None
    return smallest_group(whole, shape, budget) or one_scale


def survivors(weight: Tensor, counts: Tensor, budget: int) -> Iterator[Sparse]:
    """The sparse matrix of the largest weights that fit in `budget` bytes; none if none fit.

    It keeps every digit of a few weights among zeros. It is compared on all rows, because a sample
    of rows may miss the largest weights.

    Args:
        counts: what each squared error counts.
    """
    grid = BlockGrid((weight.shape[0], weight.shape[1]), (1, 1))
    most = grid.affordable(budget, stored_dtype(weight).itemsize)
    count = min(most, int(weight.count_nonzero()))
    if count:
        # Relative to the largest, so that nothing overflows or vanishes.
        scores = (weight / weight.abs().max()).double() * (counts / counts.max()).sqrt()
        yield Sparse.from_dense(weight, largest_entries(scores, count))


@dataclass(frozen=True)
class Sample:
    """Some rows of a weight, and the error of the entropy code on them.

    Attributes:
        weight: shape (rows, in).
        counts: what each squared error counts alone, of that shape.
        moment: second moment of the inputs, (in, in); None where it is diagonal.
        importance: of the rows, (rows,); `counts` where the moment is diagonal.
        is_whole: whether these are all rows.
        error: squared, in the norm, of the form.
    """

    weight: Tensor
    counts: Tensor
    moment: Tensor | None
    importance: Tensor
    is_whole: bool
    error: float = 0.0

    @classmethod
    def of(cls, weight: Tensor, norm: Norm, found: Tensor) -> Sample:
        """Rows of a weight (out, in), and how far an approximation is from them."""
        count = max(LEAST_ROWS, SAMPLE // weight.shape[1])
        rows = torch.arange(0, len(weight), max(1, len(weight) // count), device=weight.device)
        counts = norm.entry_weights(weight).expand(weight.shape)[rows]
        moment: Tensor | None = norm.second_moment(weight)
        importance = norm.row_weights(weight).expand(len(weight))[rows]
        if is_diagonal(moment):
            moment, importance = None, counts
        sample = cls(weight[rows], counts, moment, importance, len(rows) == len(weight))
        return replace(sample, error=sample.squared_error(found[rows]))

    def nearest(self, rivals: list[Rival]) -> Rival | None:
        """The rival that is nearest to these rows, unless it is much farther than the form."""
        errors = [rival.error_on(self) for rival in rivals]
        best = min(range(len(errors)), key=errors.__getitem__, default=None)
        return None if best is None or errors[best] > CHANCE * self.error else rivals[best]

    def squared_error(self, matrix: Tensor) -> float:
        """The squared error of an approximation, in the norm."""
        missing = self.weight - matrix.detach().double()
        if self.moment is None:
            return float((missing.square() * self.importance).sum())
        return float(((missing @ self.moment) * missing).sum(dim=1) @ self.importance)


def nearer_of_rivals(
    weight: Normalised, norm: Norm, own: tuple[EntropyCoded, Tensor], budget: int
) -> Factorization:
    """An entropy code, or the factorization of a rival within `budget` bytes if it is nearer.

    Args:
        weight: the approximated weight.
        norm: of the error.
        own: the entropy code, and its matrix at the scale of `weight.unit`.
    """
    form, found = own
    error = norm(weight.unit - found)
    if not error:
        return form
    counts = norm.entry_weights(weight.unit)
    others: list[Factorization] = list(survivors(weight.weight, counts, budget))
    rival = Sample.of(weight.unit, norm, found).nearest(rivals(weight.weight, budget))
    if rival is not None:
        with suppress(ValueError):  # No scale of 16 bits suits it.
            others.append(rival.made_of(weight.weight, counts))
    errors = [norm(weight.unit - weight.units(other.to_dense())) for other in others]
    best = min(range(len(others)), key=errors.__getitem__, default=None)
    if best is None or not errors[best] < error:
        return form
    other, least = others[best], errors[best]
    times = error / least if least else math.inf
    other.notes += (
        f"instead of an entropy code: {form.describe()} has {times:.3g} times its error",
    )
    return other
