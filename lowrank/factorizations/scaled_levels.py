"""A matrix of levels that all groups share, up to a scale, and perhaps a minimum, for each."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lowrank.factorizations.checks import check_floating, check_numbers
from lowrank.factorizations.coded import Coded
from lowrank.factorizations.configs import dtype_in, shape_in
from lowrank.factorizations.packing import Layout, pack, unpack
from lowrank.factorizations.quantized import check_scales
from lowrank.files.fields import Fields
from lowrank.numerics.storage import dtype_name


class ScaledLevels(Coded):
    """W = levels[code] · scale + minimum: one codebook for all groups, and for each group a scale
    and perhaps a minimum.

    The form of NF4 and FP4, whose levels are those of a table, and of integer blocks with a
    minimum, whose levels are the codes themselves. `Quantized` with real zero points is no such
    form: a zero point, −minimum / scale, is rounded, and does not exist where the scale is 0.
    Scales may be such a matrix too, of shape (1, groups): double quantization. Multiplied as a
    dense matrix, so it saves bytes, not time, and it cannot be trained. `to(dtype)` changes the
    dtype of W alone, never the stored numbers.

    Args:
        layout: shape, bits and groups.
        codes: shape (out, in), integers in 0..2^bits − 1.
        scale: shape (layout.count,), in the dtype in which it is stored; or its levels and scales.
        levels: shape (2^bits,), in the dtype in which they are stored; without, 0, 1, 2, ….
        minimum: shape (layout.count,), or (1,) for all groups; none for 0.
        dtype: of W. It is computed in float32, for float64 in float64, and then rounded.

    Raises:
        ValueError: shapes that do not fit the layout, codes that are none of its bits, or other
            numbers that are not finite.

    Source: Dettmers, Pagnoni, Holtzman & Zettlemoyer, QLoRA, NeurIPS 2023, section 3; with a
    minimum, the blocks Q4_1 and Q5_1 of ggml.
    """

    as_stored: ClassVar[tuple[str, ...]] = ("scale", "levels", "minimum")

    codes: Tensor
    scale: Tensor | ScaledLevels
    levels: Tensor | None
    minimum: Tensor | None

    def __init__(
        self,
        layout: Layout,
        codes: Tensor,
        scale: Tensor | ScaledLevels,
        levels: Tensor | None = None,
        minimum: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        groups = (layout.count,)
        check_shape("codes", codes, layout.shape)
        super().__init__(layout.shape)
        self.layout = layout
        self.register_buffer("codes", pack(codes.flatten(), layout.bits))
        if isinstance(scale, ScaledLevels):
            check_shape("the matrix of scales", scale, (1, *groups))
            self.scale = scale
        else:
            self._hold("scale", scale, groups)
        self._hold("levels", levels, (2**layout.bits,))
        self._hold("minimum", minimum, groups, (1,))
        self._keep_dtype(dtype, codes.device)

    def _hold(self, name: str, values: Tensor | None, *shapes: tuple[int, ...]) -> None:
        if values is not None:
            check_shape(name, values, *shapes)
            check_floating(name, values)
            check_numbers(name, values)
            values = values.detach().clone(memory_format=torch.contiguous_format)
        self.register_buffer(name, values)

    @property
    def dtype(self) -> torch.dtype:
        return self._as_dtype.dtype  # That of a matrix of scales is none of W.

    def to_dense(self) -> Tensor:
        return self._numbers(torch.promote_types(self.dtype, torch.float32)).to(self.dtype)

    def _numbers(self, working: torch.dtype) -> Tensor:
        rows, columns = self.shape
        codes = unpack(self.codes, self.layout.bits, rows * columns).view(self.shape)
        codes = self.layout.split(codes)
        levels = codes if self.levels is None else self.levels[codes.to(torch.int64)]
        scale = self.scale
        scale = scale._numbers(working)[0] if isinstance(scale, ScaledLevels) else scale.to(working)
        values = levels.to(working) * scale[:, None]
        if self.minimum is not None:
            values = values + self.minimum.to(working)[:, None]
        return self.layout.join(values)

    def config(self) -> dict[str, Any]:
        scale, minimum = self.scale, self.minimum
        is_coded = isinstance(scale, ScaledLevels)
        return {
            "type": "ScaledLevels",
            "shape": list(self.shape),
            "bits": self.layout.bits,
            "group_size": self.layout.group_size,
            "scale_dtype": None if is_coded else dtype_name(scale.dtype),
            "scale": scale.config() if is_coded else None,
            "levels_dtype": None if self.levels is None else dtype_name(self.levels.dtype),
            "minimum_dtype": None if minimum is None else dtype_name(minimum.dtype),
            "minimums": 0 if minimum is None else len(minimum),
            "dtype": dtype_name(self.dtype),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        layout = Layout(shape_in(config), config["bits"], config["group_size"])

        def blank(name: str, count: int) -> Tensor | None:
            given = config[f"{name}_dtype"] is not None
            return torch.zeros(count, dtype=dtype_in(config, f"{name}_dtype")) if given else None

        scale = blank("scale", layout.count)
        return cls(
            layout,
            torch.zeros(layout.shape, dtype=torch.uint8),
            ScaledLevels.from_config(config.fields("scale")) if scale is None else scale,
            blank("levels", 2**layout.bits),
            blank("minimum", config.integer("minimums")),
            dtype_in(config, "dtype"),
        )

    def check_stored(self) -> None:
        for name in self.as_stored:
            values = getattr(self, name)
            if isinstance(values, Tensor):
                check_scales(name, values)

    def describe(self) -> str:
        kinds = {
            "of a table": self.levels is not None,
            "a minimum": self.minimum is not None,
            "coded scales": isinstance(self.scale, ScaledLevels),
        }
        found = "".join(f", {kind}" for kind, holds in kinds.items() if holds)
        return f"ScaledLevels {self.layout.describe()}{found}"


def check_shape(name: str, values: Tensor | ScaledLevels, *shapes: tuple[int, ...]) -> None:
    """Raise ValueError unless it has one of these shapes."""
    if tuple(values.shape) not in shapes:
        allowed = " or ".join(map(str, shapes))
        raise ValueError(f"{name} of shape {tuple(values.shape)} must be of {allowed}")
