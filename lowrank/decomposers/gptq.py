"""GPTQ: rounding column by column; the columns that follow compensate each error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.approximation.rounded_columns import RoundedColumns, kept_nearest
from lowrank.approximation.rounding import Rounding, round_to_nearest, smallest_group
from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Factorization
from lowrank.factorizations.packing import BITS
from lowrank.norms import Norm
from lowrank.numerics.checks import check_integer, check_one_of
from lowrank.numerics.curvature import (
    UNPAIRED,
    compensation,
    inverse_factor,
    is_diagonal,
    raised,
    without_dead,
)
from lowrank.numerics.elimination import eliminate


@dataclass(frozen=True)
class GPTQ(Decomposer):
    """W ≈ (code − zero) · scale, the columns rounded in turn; later ones compensate each error.

    After a column is rounded, the columns not yet rounded are updated to the least error in the
    full norm. No row of the result is farther from W in the norm than rounded to nearest (weighted
    scales included): a row that compensation would make worse keeps its nearest levels, and a note
    says how many do. With one bit and zero points, a row that is nearer as zeros becomes zeros,
    with a note too. It pays at 4 bits and fewer, with at least as many calibration samples as
    inputs. It is stored as `Quantization` and takes as many bytes.

    In the identity and diagonal norms no column can compensate another, and it is `Quantization`.

    The damping of the second moment belongs to the norm. A moment that is singular even so, such as
    that of fewer samples than inputs without damping, is raised by the least power of ten of its
    mean diagonal that makes it regular in float64, and a note says by how much. Inputs that are
    always zero take no part: their weights are rounded to nearest.

    Args:
        bits, group_size, symmetric, scale, scale_dtype: as in `Quantization`; ``"mse"`` weighs by
            the diagonal of the second moment.
        order: of rounding. ``"natural"``: first to last. ``"activation"``: inputs of large mean
            square first, while many columns are left to compensate their errors; better as a rule.
        groups: the source of a group's levels. ``"static"``: the weight itself, before the first
            column is rounded. ``"dynamic"``: the columns of the group as earlier compensation has
            left them, when the first of them is rounded. Groups always are of consecutive inputs,
            so that no permutation is stored: with ``"activation"``, dynamic groups stay whole, the
            group with the input of largest mean square comes first, and inputs are sorted within
            each. With one group for a row, or for all, the two are the same.
        sweeps: of coordinate descent afterwards, at least 0: each column is rounded anew with the
            others fixed. The error never grows and the stored bytes stay; one sweep takes as long
            as all before, and only a few pay.

    Raises:
        ValueError: as `Quantization`.

    Source: Frantar, Ashkboos, Hoefler & Alistarh, ICLR 2023 (algorithm 1); act-order and static
    groups: their code; sweeps: Behdin et al., QuantEase, 2023.
    """

    bits: int
    group_size: int | str = "channel"
    symmetric: bool = True
    scale: Literal["range", "mse"] = "mse"
    scale_dtype: str = "float16"
    order: Literal["natural", "activation"] = "activation"
    groups: Literal["static", "dynamic"] = "static"
    sweeps: int = 0

    family: ClassVar[str] = "quantized"
    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)

    def __post_init__(self) -> None:
        self.rounding()
        check_one_of("order", self.order, ("natural", "activation"))
        check_one_of("groups", self.groups, ("static", "dynamic"))
        check_integer("sweeps", self.sweeps, least=0)

    def rounding(self) -> Rounding:
        """Where the levels lie."""
        return Rounding(self.bits, self.group_size, self.symmetric, self.scale, self.scale_dtype)

    def within(self, weight: Tensor, norm: Norm, limit: float) -> list[Factorization]:
        """Plain quantizations that take at most `limit` bytes, with the other settings of this one.

        Of the two largest numbers of bits that fit, each in the smallest groups that fit; none
        where one scale for each row is too much.
        """
        shape = weight.shape[0], weight.shape[1]
        sizes = {b: smallest_group(replace(self.rounding(), bits=b), shape, limit) for b in BITS}
        fitting = [replace(self, bits=b, group_size=n) for b, n in sizes.items() if n is not None]
        return [method.decompose(weight, norm) for method in fitting[-2:]]

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        moment, rounding = norm.second_moment(weight), self.rounding()
        if is_diagonal(moment):
            rounded = round_to_nearest(weight, norm, rounding)
            rounded.notes += (UNPAIRED,)
            return rounded
        layout = rounding.layout(weight)
        grid = rounding.grid(weight, norm.entry_weights(weight))
        nearest = RoundedColumns.nearest(weight, grid, layout)
        alive = without_dead(moment)
        order = self._order(moment.diagonal(), nearest)
        factor, share = inverse_factor(alive[order[:, None], order])
        elimination = Elimination(order, compensation(factor), moment.diagonal()[order])
        result = self._compensate(weight, nearest, elimination)
        result, kept = result.better_rows(nearest, weight, moment)
        for _ in range(self.sweeps):
            result.descend(weight, alive, order)
        zeros = 0
        if self.bits == 1 and not self.symmetric:
            # With two levels, one of them 0, the other may be far from all weights of a row.
            result, zeros = result.better_rows(result.zeros(), weight, moment)
        quantized = rounding.quantized(result.codes.T, result.grid(layout), weight.dtype)
        quantized.notes = raised(share) + kept_nearest(kept) + made_zero(zeros)
        return quantized

    def _order(self, strength: Tensor, columns: RoundedColumns) -> Tensor:
        """The columns in the order in which they are rounded, (in,)."""
        if self.order == "natural":
            return torch.arange(len(strength), device=strength.device)
        order = strength.argsort(descending=True, stable=True)
        if not self._is_dynamic(columns):
            return order
        groups = F.pad(strength, (0, -len(strength) % columns.width)).view(-1, columns.width)
        rank = groups.amax(dim=1).argsort(descending=True, stable=True).argsort()
        return order[rank[order // columns.width].argsort(stable=True)]

    def _is_dynamic(self, columns: RoundedColumns) -> bool:
        return self.groups == "dynamic" and len(columns.scale) > 1

    def _compensate(
        self, weight: Tensor, nearest: RoundedColumns, elimination: Elimination
    ) -> RoundedColumns:
        """The weight rounded column by column."""
        result, is_dynamic = nearest.copy(), self._is_dynamic(nearest)
        order, factor = elimination.order, elimination.factor
        rest = weight.double().T[order].contiguous()
        largest = nearest.scale.abs().max()

        def settle_run(first: int, last: int) -> Tensor:
            if is_dynamic:
                counts = elimination.strength[first:last].expand(len(weight), -1)
                levels = self.rounding().fit(rest[first:last].T.contiguous(), counts, largest)
                group = int(order[first]) // result.width
                result.scale[group], result.zero[group] = levels.scale, levels.zero
            part = slice(first, last)
            return result.eliminate(rest[part], order[part], factor[part, part])

        # A dynamic group must have all compensation of earlier columns when its levels are fitted.
        eliminate(rest, factor, elimination.edges(result.width if is_dynamic else None), settle_run)
        return result


@dataclass(frozen=True)
class Elimination:
    """The factored second moment, for rounding column by column.

    Attributes:
        order: of the columns, (in,).
        factor: `compensation` in this order, (in, in).
        strength: its diagonal in this order, (in,).
    """

    order: Tensor
    factor: Tensor
    strength: Tensor

    def edges(self, width: int | None) -> list[int]:
        """Where runs of columns of one group of that width begin, and the end; None: one group."""
        groups = self.order // (width or len(self.order))
        lengths = torch.unique_consecutive(groups, return_counts=True)[1].tolist()
        return [0, *accumulate(lengths)]


def made_zero(rows: int) -> tuple[str, ...]:
    """The note on rows that are nearer in the norm as zeros; none if there are none."""
    if not rows:
        return ()
    return (f"{rows} row{'s' * (rows > 1)} made zero, which is nearer in the norm",)
