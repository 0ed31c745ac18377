"""The exchange of the leaves of a factorization for weights as ONNX holds them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from lowrank.export.formats.onnx.weights import Converted, Dequantized, Looked, Multiplied
from lowrank.factorizations import Dense, Factorization
from lowrank.factorizations.codebook import Codebook
from lowrank.factorizations.factorization import Leaf
from lowrank.factorizations.half import Half
from lowrank.factorizations.packing import Layout
from lowrank.factorizations.quantized import Quantized
from lowrank.factorizations.scaled_levels import ScaledLevels
from lowrank.factorizations.sparse import Sparse
from lowrank.numerics.storage import dtype_name


class LaterDense(nn.Module):
    """The place of a matrix that is multiplied out when the file is written."""

    def __init__(self, form: Factorization) -> None:
        super().__init__()
        self.shape, self.dtype = form.shape, form.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        return math.prod(self.shape) * self.dtype.itemsize

    def describe(self) -> str:
        """How it is stored."""
        return f"dense {dtype_name(self.dtype)}"


def dense(form: Factorization) -> nn.Module:
    """A form multiplied out."""
    return Dense(form.to_dense().detach())


def exchanged(
    module: nn.Module, multiplies: bool, multiply_out: Callable[[Factorization], nn.Module]
) -> tuple[nn.Module, list[str]]:
    """What holds a form in ONNX, and why parts of it are multiplied out.

    Args:
        module: without entropy codes; its parts are exchanged in place.
        multiplies: whether `Multiplied` may be used.
        multiply_out: gives the matrix of a leaf that ONNX does not hold.
    """
    if isinstance(module, Leaf) and not isinstance(module, Dense):
        why = refusal(module)
        if why:
            return multiply_out(module), [why]
    whys: list[str] = []
    for name, child in list(module.named_children()):
        new, why = exchanged(child, multiplies, multiply_out)
        setattr(module, name, new)
        whys += why
    if isinstance(module, Quantized):
        fits = multiplies and fits_matmul(module.layout)
        return (Multiplied if fits else Dequantized)(module), whys
    if isinstance(module, Half):
        return Converted(module), whys
    if isinstance(module, Codebook):
        return Looked(module), whys
    return module, whys


def refusal(form: Leaf) -> str:
    """Why ONNX does not hold a leaf; empty if it does."""
    if isinstance(form, Sparse):
        return "onnxruntime multiplies no sparse matrices"
    if isinstance(form, ScaledLevels):
        return "ONNX has no levels of a table or a minimum with a scale for each group"
    if isinstance(form, Codebook) and form.layout.count > 1:
        return "ONNX gathers from one codebook, and this has one for each group"
    if isinstance(form, Quantized) and form.zero is not None and form.zero.is_floating_point():
        return "zero points of ONNX are integers, and these are real"
    if isinstance(form, Quantized | Half | Codebook) and form.dtype != torch.float32:
        return f"codes are multiplied in float32, and this model has {dtype_name(form.dtype)}"
    if isinstance(form, Quantized) and form.scale.dtype == torch.float64:
        return "its scales have 64 bits"
    return ""


def fits_matmul(layout: Layout) -> bool:
    """Whether ``MatMulNBits`` has groups of this width: 16 · 2^k inputs."""
    is_row = layout.group_size != "tensor"
    return is_row and layout.width >= 16 and layout.width.bit_count() == 1
