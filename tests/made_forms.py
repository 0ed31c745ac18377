"""Forms that other tools write and no method makes, as a method of the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.decomposers import Decomposer
from lowrank.factorizations import (
    Factorization,
    Layout,
    Quantized,
    ReorderedColumns,
    ScaledLevels,
)
from lowrank.norms import Norm

# The quantiles of a normal distribution, as of the tables of 4 bits.
TABLE = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.03, 0.97, 16))
TABLE = TABLE / TABLE.abs().max()


@dataclass(frozen=True)
class AsRead(Decomposer):
    """W in one of the forms of `FORMS`, rounded to nearest in groups of columns."""

    form: str
    group_size: int = 12

    family: ClassVar[str] = "quantized"

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        layout = Layout(tuple(weight.shape), 4, self.group_size)
        return FORMS[self.form](layout, layout.split(weight.double()), weight.dtype)


def stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    found, largest = values.to(dtype), float(values.abs().max())
    if not bool(found.isfinite().all()) or 0 < largest < torch.finfo(dtype).tiny:
        raise ValueError(
            f"{largest} is too large or small for dtype='{str(dtype)[6:]}'. Use another"
        )
    return found


def nearest(values: Tensor, table: Tensor) -> Tensor:
    return (values[..., None] - table).abs().argmin(dim=-1)


def peaks(groups: Tensor) -> Tensor:
    return groups.abs().amax(dim=1, keepdim=True)


def of_a_table(layout: Layout, groups: Tensor, dtype: torch.dtype) -> Factorization:
    scale = peaks(groups)
    codes = layout.join(nearest(groups / scale.clamp(min=1e-300), TABLE.double()))
    return ScaledLevels(layout, codes, stored(scale[:, 0], torch.float32), TABLE, None, dtype)


def with_coded_scales(layout: Layout, groups: Tensor, dtype: torch.dtype) -> Factorization:
    scale = peaks(groups)[:, 0]
    inner = Layout((1, len(scale)), 8, 8)
    outer = peaks(inner.split(scale[None]))
    scales = inner.split(scale[None]) / outer.clamp(min=1e-300)
    levels = torch.linspace(0, 1, 256)
    coded = ScaledLevels(
        inner,
        inner.join(nearest(scales, levels.double())),
        stored(outer[:, 0], torch.float32),
        levels,
        torch.zeros(1),
    )
    codes = layout.join(nearest(groups / scale[:, None].clamp(min=1e-300), TABLE.double()))
    return ScaledLevels(layout, codes, coded, TABLE, None, dtype)


def with_minima(layout: Layout, groups: Tensor, dtype: torch.dtype) -> Factorization:
    low = stored(groups.amin(dim=1), torch.float16)
    scale = stored((groups.amax(dim=1) - low.double()) / 15, torch.float16)
    steps = (groups - low.double()[:, None]) / scale.double()[:, None].clamp(min=1e-300)
    codes = layout.join(steps.round().clamp(0, 15).to(torch.int64))
    return ScaledLevels(layout, codes, scale, None, low, dtype)


def reordered(layout: Layout, groups: Tensor, dtype: torch.dtype) -> Factorization:
    """Codes of columns in another order, as of GPTQ with act-order."""
    matrix = layout.join(groups)
    order = torch.arange(matrix.shape[1]).flip(0)
    groups = layout.split(matrix[:, order])
    scale = stored(peaks(groups) / 7, torch.float32)
    codes = (groups / scale.double().clamp(min=1e-300)).round().clamp(-8, 7).to(torch.int64) + 8
    return ReorderedColumns(Quantized(layout, layout.join(codes), scale[:, 0], None, dtype), order)


FORMS = {
    "levels of a table": of_a_table,
    "coded scales": with_coded_scales,
    "minima": with_minima,
    "reordered columns": reordered,
}
