"""Quantized layers as the library compressed-tensors stores and reads them.

The layout is that of its release 0.20: the format ``pack-quantized``. Codes of 4 and 8 bits lie in
its 32-bit words as they always did; those of other widths lie otherwise in older releases, and so
are kept in the next wider code, which holds them exactly. Sparse matrices it no longer knows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.factorizations.packing import Layout, pack, packed_bytes, unpack
from lowrank.factorizations.quantized import Quantized
from lowrank.numerics.storage import dtype_name

FORMAT = "pack-quantized"
WIDTHS = (4, 8)
# Bits of the words that codes are packed into.
WORD = 32
# The shape of the matrix, as two integers of 64 bits.
SHAPE_BYTES = 16


@dataclass(frozen=True)
class PackingScheme:
    """How the codes of a layer are packed.

    Attributes:
        bits: of a code in the file.
        group_size: inputs that share a scale; None for a whole row.
        symmetric: whether there are no zero points.
        dequantize: whether readers multiply out as they load, and not in the first run.
    """

    bits: int
    group_size: int | None
    symmetric: bool
    dequantize: bool = False

    @classmethod
    def of(cls, form: Quantized, zeros: bool, dequantize: bool = False) -> PackingScheme | None:
        """The scheme of a form that `why_not` accepts; None if there is none without zero points.

        Without them the differences code − zero are the codes, of one bit more.

        Args:
            zeros: whether there may be zero points, which need `dequantize`.
        """
        layout = form.layout
        is_row = isinstance(layout.group_size, str) or layout.width == layout.shape[1]
        group_size = None if is_row else layout.width
        bits = _wider(layout.bits)
        if form.zero is None:
            return cls(bits, group_size, True, dequantize)
        signed = _wider(layout.bits + 1)
        if signed == min(WIDTHS) or not zeros:
            return cls(signed, group_size, True, dequantize) if signed else None
        return cls(bits, group_size, symmetric=False, dequantize=True)

    def describe(self, own_bits: int) -> str:
        """Such as ``pack-quantized, 3 bits in 4, group 32``."""
        bits = f"{own_bits} bits" + (f" in {self.bits}" if self.bits != own_bits else "")
        groups = f"group {self.group_size}" if self.group_size else "per channel"
        return f"{FORMAT}, {bits}, {groups}" + ("" if self.symmetric else ", zero points")

    def nbytes(self, form: Quantized) -> int:
        """Bytes of the tensors that `packed_tensors` makes."""
        rows, columns = form.shape
        groups = columns // self.group_size if self.group_size else 1
        zeros = 0 if self.symmetric else groups * _words(rows, self.bits)
        words = rows * _words(columns, self.bits) + zeros
        return 4 * words + rows * groups * self.scale_dtype(form).itemsize + SHAPE_BYTES

    def scale_dtype(self, form: Quantized) -> torch.dtype:
        """Of the scales in the file: their own, if the reader casts them to that of W before it
        multiplies; as it loads it does not, and what it multiplies in must be wide enough."""
        own = form.scale.dtype
        if not self.dequantize or own == form.dtype:
            return own
        return torch.promote_types(torch.promote_types(own, form.dtype), torch.float32)

    def to_json(self) -> dict[str, Any]:
        """The arguments of the weights in ``quantization_config``."""
        return {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": self.symmetric,
            "strategy": "group" if self.group_size else "channel",
            "group_size": self.group_size,
            "dynamic": False,
        }


def why_not(form: Quantized) -> str:
    """Why compressed-tensors cannot hold the codes of a form; empty if it can."""
    layout = form.layout
    rows, columns = layout.shape
    if not rows or not columns:
        return "it has no weights"
    if layout.bits == 1 and form.zero is None:
        return "compressed-tensors has no levels ±scale/2 without one at 0"
    if isinstance(layout.group_size, int) and columns % layout.width:
        return f"groups of {layout.group_size} do not divide its {columns} inputs"
    zero = form.zero
    if zero is not None and zero.is_floating_point():
        is_code = (zero == zero.round()) & (zero >= 0) & (zero < 2**layout.bits)
        if not bool(is_code.all()):
            return "its zero points are no integers among its codes"
    return ""


def schemes_of(forms: Mapping[str, Quantized], dequantize: bool) -> dict[str, PackingScheme]:
    """The schemes of forms that `why_not` accepts, by the name of the layer.

    Readers take packed zero points only if they multiply out as they load, and then take one scheme
    for all layers. Where there are several, none has zero points, and a form of 8 bits that needs
    them is left out.

    Args:
        dequantize: whether readers are to multiply out as they load.

    Raises:
        ValueError: they are, and there are several schemes.
    """
    found = {name: PackingScheme.of(form, True, dequantize) for name, form in forms.items()}
    several = len(set(found.values())) > 1
    if several and dequantize:
        raise ValueError(
            "dequantize=True is for layers packed alike, since transformers then reads all by one "
            f"scheme, and these have {len(set(found.values()))}: leave it out, or give all layers "
            "the same bits and groups"
        )
    if several:
        found = {name: PackingScheme.of(form, zeros=False) for name, form in forms.items()}
    return {name: scheme for name, scheme in found.items() if scheme is not None}


def packed_tensors(form: Quantized, scheme: PackingScheme) -> dict[str, Tensor]:
    """The tensors that stand for ``weight`` in the file, by the ends of their names.

    A reader computes (code − zero) · scale in the dtype of the scale, which is that of W there.
    The product of a code of 8 bits and a 16-bit scale is exact in float32, and rounded once, as
    `Quantized` does it: the same numbers, unless the scale itself is rounded (`rounding_note`).
    """
    layout = form.layout
    rows, columns = layout.shape
    codes = unpack(form.codes, layout.bits, rows * columns).view(rows, columns).cpu().int()
    zero = _zero(form)
    if scheme.symmetric:
        each = layout.join(zero[:, None].expand(-1, layout.width))
        codes = codes - each + 2 ** (scheme.bits - 1)
    tensors = {
        "weight_packed": _packed(codes, scheme.bits),
        "weight_scale": _by_row(form.scale.cpu(), layout).to(scheme.scale_dtype(form)),
        "weight_shape": torch.tensor([rows, columns]),
    }
    if not scheme.symmetric:
        tensors["weight_zero_point"] = _packed(_by_row(zero, layout).T, scheme.bits).T.contiguous()
    return tensors


def quantization_config(
    schemes: Mapping[str, PackingScheme], others: Sequence[str], names: Collection[str]
) -> dict[str, Any]:
    """The entry ``quantization_config`` of a model's config.

    Args:
        schemes: of the packed layers, by name.
        others: names of the linear layers that are not packed.
        names: of all modules.
    """
    groups: dict[PackingScheme, list[str]] = {}
    for name, scheme in schemes.items():
        groups.setdefault(scheme, []).append(name)
    return {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        # Multiplied out at the first run, packed zero points have another shape than expected.
        "dequantize": any(scheme.dequantize for scheme in groups),
        "config_groups": {
            f"group_{number}": {
                "targets": _patterns(members, names),
                "weights": scheme.to_json(),
                "input_activations": None,
                "output_activations": None,
                "format": FORMAT,
            }
            for number, (scheme, members) in enumerate(groups.items())
        },
        "ignore": list(others),
    }


def rounding_note(form: Quantized, scheme: PackingScheme) -> str:
    """What becomes of the scales where the reader rounds them to the dtype of W; else empty."""
    scale = form.scale
    if scheme.dequantize or torch.equal(scale.to(form.dtype).to(scale.dtype), scale):
        return ""
    return f", scales of {dtype_name(scale.dtype)} rounded to {dtype_name(form.dtype)} when read"


def _patterns(members: Sequence[str], names: Collection[str]) -> list[str]:
    """Regular expressions that match these modules and no other: one for each kind of layer where
    its numbers are all that differs."""
    found = []
    kinds: dict[str, list[str]] = {}
    for name in members:
        kinds.setdefault(re.sub(r"\d+", r"\\d+", re.escape(name)), []).append(name)
    for pattern, same in kinds.items():
        matched = {name for name in names if re.fullmatch(pattern, name)}
        exact = [pattern] if matched == set(same) else [re.escape(name) for name in same]
        found += [f"re:{one}$" for one in exact]
    return found


def _wider(bits: int) -> int:
    """The least width of a code that holds codes of so many bits; 0 if none does."""
    return next((width for width in WIDTHS if bits <= width), 0)


def _zero(form: Quantized) -> Tensor:
    """The zero point of each group, int32."""
    layout, zero = form.layout, form.zero
    if zero is None:
        return torch.full((layout.count,), 2 ** (layout.bits - 1), dtype=torch.int32)
    zero = zero if zero.is_floating_point() else unpack(zero, layout.bits, layout.count)
    return zero.cpu().int()


def _packed(codes: Tensor, bits: int) -> Tensor:
    """Each row of codes in words of its own, int32, lowest bits first."""
    rows, columns = codes.shape
    padded = F.pad(codes, (0, -columns % (WORD // bits)))
    return pack(padded.flatten(), bits).view(torch.int32).view(rows, -1)


def _by_row(values: Tensor, layout: Layout) -> Tensor:
    """Values of groups as (out, groups in a row)."""
    rows = layout.shape[0]
    if layout.group_size == "tensor":
        return values.repeat(rows)[:, None].contiguous()
    return values.view(rows, -1).contiguous()


def _words(count: int, bits: int) -> int:
    return math.ceil(packed_bytes(count, bits) / 4)
