"""Nodes of ONNX in recorded programs, and the codes that they read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lowrank.factorizations.packing import unpack
from lowrank.factorizations.quantized import Quantized, symmetric_zero

# The version of the operators of ONNX, the first with codes of 4 bits in groups.
OPSET = 21
# The domain of nodes that become others when the optimizer has run, which would evaluate them.
LATER = "lowrank"
# Marks nodes whose codes have 4 bits, with the type that they have then.
NARROW = "lowrank.codes"
FLOAT = 1  # float32 in ONNX.


def node(
    operator: str,
    inputs: tuple[Tensor, ...],
    attributes: Mapping[str, int],
    shape: tuple[Any, ...],
    version: int = OPSET,
    marks: Mapping[str, str] | None = None,
) -> Tensor:
    """The output of a node of ONNX, float32; without numbers outside of an export."""
    found = torch.onnx.ops.symbolic(
        operator,
        inputs,
        dict(attributes),
        dtype=torch.float32,
        shape=shape,
        version=1 if operator.startswith(LATER) else version,
        metadata_props=dict(marks or {}),
    )
    assert isinstance(found, Tensor)
    return found


def levels_of(form: Quantized) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes (out, in), scales and zero points (groups,), the last as codes too.

    Of symmetric levels the codes have signs (int8), and there are no zero points.
    """
    layout = form.layout
    bits, (rows, columns) = layout.bits, form.shape
    codes = unpack(form.codes, bits, rows * columns).view(form.shape)
    scale = form.scale.float()
    if form.zero is not None:
        return codes, scale, unpack(form.zero, bits, layout.count)
    if bits == 1:  # ±scale/2 as ±1 at half the scale.
        return 2 * codes.to(torch.int8) - 1, scale / 2, None
    return (codes.to(torch.int16) - int(symmetric_zero(bits))).to(torch.int8), scale, None


def in_pairs(codes: Tensor) -> Tensor:
    """Codes of 4 bits, two of a row in a byte, the first in its lower half."""
    return codes[:, 0::2] | (codes[:, 1::2] << 4)
