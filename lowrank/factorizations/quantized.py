"""A matrix of evenly spaced levels: integer codes of few bits, and a scale for each group."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lowrank.factorizations.checks import check_numbers, check_range
from lowrank.factorizations.coded import Coded
from lowrank.factorizations.configs import dtype_in, shape_in
from lowrank.factorizations.factorization import with_plain_strides
from lowrank.factorizations.packing import Layout, pack, unpack
from lowrank.factorizations.tunable import Tunable
from lowrank.files.fields import Fields
from lowrank.numerics.storage import dtype_name


class Quantized(Coded):
    """W = (code − zero) · scale, with one scale, and perhaps one zero point, for each group.

    Codes lie in 0..2^bits − 1 and are packed without gaps; integer zero points are packed alike,
    real ones stored as they are. Without zero points the levels are symmetric about 0 but for one
    more on one side, zero = 2^(bits−1), and the sign of the scale says on which; one bit has the
    levels ±scale/2 and none at 0.

    Only codes, scales and zero points are stored: bits + (bits of a scale + bits of a zero point) /
    group_size bits for each weight. Multiplied as a dense matrix, so it saves bytes, not time; it
    has no parameters, but what can be moved is `tunable`. `to(dtype)` changes the dtype of W alone,
    never the stored scales.

    Args:
        layout: shape, bits and groups.
        codes: shape (out, in), integers.
        scale: shape (layout.count,), in the dtype in which it is stored.
        zero: shape (layout.count,), integers in 0..2^bits − 1, or real numbers in the dtype in
            which they are stored; none for symmetric levels.
        dtype: of W. It is computed in float32, for float64 in float64, and then rounded.

    Raises:
        ValueError: shapes that do not fit the layout, codes or zero points that are no codes of its
            bits, or scales that are no finite numbers.
    """

    as_stored: ClassVar[tuple[str, ...]] = ("scale", "zero")

    codes: Tensor
    scale: Tensor
    zero: Tensor | None

    def __init__(
        self,
        layout: Layout,
        codes: Tensor,
        scale: Tensor,
        zero: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        expected = {"codes": layout.shape, "scale": (layout.count,), "zero": (layout.count,)}
        for name, tensor in (("codes", codes), ("scale", scale), ("zero", zero)):
            if tensor is not None and tuple(tensor.shape) != expected[name]:
                raise ValueError(
                    f"{name} of shape {tuple(tensor.shape)} do not fit {layout}, which needs "
                    f"{expected[name]}"
                )
        check_numbers("scale", scale)
        super().__init__(layout.shape)
        self.layout = layout
        self.register_buffer("codes", pack(codes.flatten(), layout.bits))
        self.register_buffer("scale", with_plain_strides(scale.detach()))
        if zero is not None:
            is_real = zero.is_floating_point()
            if is_real:
                check_numbers("zero", zero)
            else:
                check_range("zero", zero, 2**layout.bits - 1)
            zero = with_plain_strides(zero.detach()) if is_real else pack(zero, layout.bits)
        self.register_buffer("zero", zero)
        self._keep_dtype(dtype, codes.device)

    def to_dense(self) -> Tensor:
        dtype = self._as_dtype.dtype
        working = torch.promote_types(dtype, torch.float32)
        bits, count = self.layout.bits, self.layout.count
        if self.zero is None:
            device = self.codes.device
            zero = torch.full((count,), symmetric_zero(bits), dtype=working, device=device)
        elif self.zero.is_floating_point():
            zero = self.zero.to(working)
        else:
            zero = unpack(self.zero, bits, count).to(working)
        levels = self.layout.split(self._unpacked()).to(working) - zero[:, None]
        return self.layout.join(levels * self.scale.to(working)[:, None]).to(dtype)

    def tunable(self) -> dict[str, Tunable]:
        real = {"scale": self.scale, "zero": self.zero}
        found = {
            name: Tunable.scales(tensor)
            for name, tensor in real.items()
            if tensor is not None and tensor.is_floating_point()
        }
        bits = self.layout.bits
        codes = Tunable(
            "codes",
            self._unpacked().to(torch.promote_types(self._as_dtype.dtype, torch.float32)),
            rounded=torch.round,
            stored=lambda numbers: pack(numbers.flatten(), bits),
            limits=(0, 2**bits - 1),
        )
        return found | {"codes": codes}

    def _unpacked(self) -> Tensor:
        if self.codes.is_floating_point():  # They are being tuned.
            return self.codes
        return unpack(self.codes, self.layout.bits, self.shape[0] * self.shape[1]).view(self.shape)

    def config(self) -> dict[str, Any]:
        return {
            "type": "Quantized",
            "shape": list(self.shape),
            "bits": self.layout.bits,
            "group_size": self.layout.group_size,
            "zero_dtype": None if self.zero is None else dtype_name(self.zero.dtype),
            "scale_dtype": dtype_name(self.scale.dtype),
            "dtype": dtype_name(self._as_dtype.dtype),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        layout = Layout(shape_in(config), config["bits"], config["group_size"])
        zero = None
        if config["zero_dtype"] is not None:
            is_packed = config["zero_dtype"] == "uint8"
            dtype = torch.uint8 if is_packed else dtype_in(config, "zero_dtype")
            zero = torch.zeros(layout.count, dtype=dtype)
        return cls(
            layout,
            codes=torch.zeros(layout.shape, dtype=torch.uint8),
            scale=torch.zeros(layout.count, dtype=dtype_in(config, "scale_dtype")),
            zero=zero,
            dtype=dtype_in(config, "dtype"),
        )

    def check_stored(self) -> None:
        check_scales("scale", self.scale)
        if self.zero is not None and self.zero.is_floating_point():
            check_scales("zero", self.zero)

    def describe(self) -> str:
        if self.zero is None:
            return f"Quantized {self.layout.describe()}"
        kind = "real zero points" if self.zero.is_floating_point() else "zero points"
        return f"Quantized {self.layout.describe()}, {kind}"


def check_scales(name: str, values: Tensor) -> None:
    """Raise ValueError unless all of them are numbers."""
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"{bad} of {values.numel()} numbers in {name!r} are NaN or infinite")


def symmetric_zero(bits: int) -> float:
    """The zero point that symmetric levels have, stored nowhere: 2^(bits−1), for one bit 1/2."""
    return 2 ** (bits - 1) if bits > 1 else 0.5
