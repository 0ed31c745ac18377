"""Joint pruning and quantization: each column compensates the errors of the columns before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.approximation.comparison import better_of
from lowrank.approximation.quantization_grid import QuantizationGrid
from lowrank.approximation.rounded_columns import RoundedColumns, kept_nearest
from lowrank.approximation.sparse_part import sparse_within
from lowrank.decomposers.alps import ALPS
from lowrank.decomposers.decomposer import Decomposer, nearest_of
from lowrank.decomposers.gptq import GPTQ
from lowrank.factorizations import Factorization, Sparse
from lowrank.factorizations.operations import KernelView
from lowrank.factorizations.packing import Layout
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.curvature import (
    compensation,
    inverse_factor,
    is_diagonal,
    raised,
    without_dead,
)


@dataclass(frozen=True)
class PruneAndQuantize(Decomposer):
    """W ≈ a sparse matrix whose kept values are codes of few bits, both at once in the full norm.

    `pruning` chooses the mask. Then, column by column, survivors are rounded and the others set to
    zero, and the columns that follow compensate both errors, as in GPTQ. In the norm no row is
    farther from W than if its survivors were rounded to nearest, as by a `Chain`: a row that
    compensation would make worse keeps its nearest levels, and a note says how many do. Last come
    the sweeps of coordinate descent of `quantization`.

    Takes density · bits, and 1 bit of index for each weight; scales are of survivors that follow
    each other. It is compared in the norm with its parts alone at the same bytes: `pruning` to as
    many values as they hold in the dtype of the weight, and `quantization` of all weights, with the
    two largest numbers of bits that fit, each in the smallest groups that fit. If one of them is
    nearer, it is returned with a note.

    Pays between two numbers of bits, and below 2. In the full norm, against plain quantization in
    smaller groups, the error of attention and MLP weights of stories260K and MiniLM is mostly 8 to
    25 % less with half of the weights in 3 bits (2.5 to 2.8 bits for each weight), and of
    stories260K 27 to 47 % less with 30 % of them in 2 bits (1.7 to 1.9) and 15 to 45 % with as many
    in 1 bit (1.4 to 1.6; levels −s, 0 and s). It does not pay at 2 bits for half of the weights,
    nor for most of them at any: there the index costs what one more bit for all of them does. The
    zeros save bytes and no time.

    In the identity and diagonal norms no column can compensate another, and it is the two steps one
    after the other.

    Args:
        pruning: the method that chooses the mask. With ``within="row"`` and N:M each row keeps
            equally many, so that groups of survivors lie in rows; else the values are one row, and
            a note says so.
        quantization: bits, groups, scales and sweeps; columns are taken in its order, and groups
            are static.

    Raises:
        ValueError: dynamic groups; or as the two.

    Source: Frantar & Alistarh, ICML 2023, section 3.4 (one pass over the columns for both).
    """

    pruning: ALPS
    quantization: GPTQ

    family: ClassVar[str] = "hybrid"
    norms: ClassVar[tuple[type[Norm], ...]] = (Identity, Diagonal, Full)

    def __post_init__(self) -> None:
        for name, cls in (("pruning", ALPS), ("quantization", GPTQ)):
            value = getattr(self, name)
            if not isinstance(value, cls):
                raise ValueError(f"{name}={value!r} must be of class {cls.__name__}")
        if self.quantization.groups == "dynamic":
            raise ValueError(
                "groups='dynamic' are of columns, and those of PruneAndQuantize of survivors: use "
                "groups='static'"
            )

    def kernel_view(self) -> KernelView:
        return self.pruning.kernel_view()

    def check_shape(self, weight: Tensor) -> None:
        with nearest_of(lambda pruning: replace(self, pruning=pruning)):
            self.pruning.check_shape(weight)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        pruned = self.pruning.approximate(weight, norm)
        assert isinstance(pruned, Sparse)
        values = pruned.values.to_dense().detach().double()
        if not bool(values.any()):
            return pruned
        rounding = self.quantization.rounding()
        counts = norm.entry_weights(weight).expand(weight.shape)[pruned.mask].view(values.shape)
        levels = rounding.grid(values, counts)
        survivors = Survivors(pruned.mask, rounding.layout(values), levels)
        nearest, exact = survivors.nearest(values), pruned.to_dense().detach().double()
        columns, notes = self._together(weight, norm, exact, nearest)
        quantized = rounding.quantized(survivors.gather(columns.codes), levels, weight.dtype)
        hybrid = pruned.map_dense(lambda leaf: quantized)
        hybrid.notes += notes
        limit = hybrid.nbytes
        plain = self.quantization.within(weight, norm, limit)
        return better_of(weight, norm, hybrid, sparse_within(weight, norm, limit), *plain)

    def _together(
        self, weight: Tensor, norm: Norm, exact: Tensor, nearest: RoundedColumns
    ) -> tuple[RoundedColumns, tuple[str, ...]]:
        """Codes of the survivors, which compensate each other's errors, and notes for the report.

        Args:
            exact: the best values of the survivors, zero elsewhere, (out, in).
            nearest: each of them rounded by itself.
        """
        moment = norm.second_moment(weight)
        if is_diagonal(moment):
            return nearest, ()  # The pruning has said so.
        alive = without_dead(moment)
        strength = moment.diagonal()
        order = torch.arange(len(strength), device=strength.device)
        if self.quantization.order == "activation":
            order = strength.argsort(descending=True, stable=True)
        factor, share = inverse_factor(alive[order[:, None], order])
        # From the optimal values and not from the weight: its first columns could not compensate
        # the errors of later ones.
        result = eliminated(exact, nearest, order, factor)
        result, kept = result.better_rows(nearest, weight, moment)
        for _ in range(self.quantization.sweeps):
            result.descend(weight, alive, order)
        return result, raised(share) + kept_nearest(kept)


@dataclass(frozen=True)
class Survivors:
    """The positions of the values of a sparse matrix, and their quantization levels.

    Attributes:
        mask: of the matrix, (out, in).
        layout: of the values, (rows, k).
        levels: of their groups.
    """

    mask: Tensor
    layout: Layout
    levels: QuantizationGrid

    def nearest(self, values: Tensor) -> RoundedColumns:
        """Values (rows, k) rounded to nearest; each entry of the matrix has levels of its own.

        Pruned entries have a scale of zero, so that every rounding makes them zero.
        """
        codes = self.layout.join(self.levels.codes(self.layout.split(values)))
        scale, zero = (self._each(of_group) for of_group in (self.levels.scale, self.levels.zero))
        parts = (self._scatter(part) for part in (codes, scale, zero))
        return RoundedColumns(self.levels.bits, 1, *parts)

    def gather(self, columns: Tensor) -> Tensor:
        """The values (rows, k) of a matrix that is given by its columns, (in, out)."""
        return columns.T[self.mask].view(self.layout.shape)

    def _each(self, of_group: Tensor) -> Tensor:
        """Numbers of groups (count,), spread over the values (rows, k) of each."""
        return self.layout.join(of_group[:, None].expand(-1, self.layout.width))

    def _scatter(self, values: Tensor) -> Tensor:
        zeros = torch.zeros(self.mask.shape, dtype=values.dtype, device=values.device)
        return zeros.masked_scatter(self.mask, values).T.contiguous()


def eliminated(
    exact: Tensor, nearest: RoundedColumns, order: Tensor, factor: Tensor
) -> RoundedColumns:
    """Columns rounded in turn, on the levels of `nearest`; later ones compensate each error.

    Args:
        exact: what is to be rounded, (out, in).
        order: of the columns, (in,).
        factor: U of `inverse_factor` for the columns in this order, (in, in).
    """
    result = nearest.copy()
    result.eliminate(exact.T[order].contiguous(), order, compensation(factor))
    return result
