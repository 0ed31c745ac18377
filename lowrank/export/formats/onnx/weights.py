"""Weights as ONNX holds them, in the place of the leaves of a factorization."""

from __future__ import annotations

import math
from abc import abstractmethod

from torch import Tensor, nn

from lowrank.export.formats.onnx.nodes import FLOAT, LATER, NARROW, in_pairs, levels_of, node
from lowrank.factorizations.codebook import Codebook
from lowrank.factorizations.factorization import MULTIPLY
from lowrank.factorizations.half import Half
from lowrank.factorizations.operations import Multiply, Operation
from lowrank.factorizations.quantized import Quantized
from lowrank.numerics.storage import dtype_name


class OnnxWeight(nn.Module):
    """A matrix (out, in) of float32 that a node of ONNX makes of what is stored.

    Attributes:
        shape: (out, in).
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape

    @abstractmethod
    def to_dense(self) -> Tensor:
        """The matrix; in an export to ONNX alone."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes in the file."""

    @abstractmethod
    def describe(self) -> str:
        """How it is stored, such as ``DequantizeLinear, uint4, group 32``."""

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        """As a factorization."""
        return operation.apply(x, self.to_dense(), bias)


class Dequantized(OnnxWeight):
    """(code − zero) · scale by ``DequantizeLinear``: codes of up to 4 bits in 4, others in 8.

    Symmetric levels are codes with signs, and have no zero points. Codes of 8 bits always have a
    scale for each row at least, as a group of all its inputs: with one scale in an axis of its own
    onnxruntime (1.32) merges the node into one that rounds inputs to 8 bits.

    Args:
        form: with symmetric levels or integer zero points, and W of float32.

    Source: the operators of ONNX, DequantizeLinear, version 21.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None

    def __init__(self, form: Quantized) -> None:
        super().__init__(form.shape)
        self.layout = form.layout
        codes, scale, zero = levels_of(form)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", self._grouped(scale))
        self.register_buffer("zero", None if zero is None else self._grouped(zero))

    def _grouped(self, values: Tensor) -> Tensor:
        """One number for each group, in the axes of the groups: none for one of all weights."""
        size, rows = self.layout.group_size, self.shape[0]
        if size == "tensor":
            return values.view(()) if self.is_narrow else values.repeat(rows)[:, None]
        is_row = size == "channel" and self.is_narrow
        return values if is_row else values.view(rows, -1)

    @property
    def is_narrow(self) -> bool:
        """Whether codes have 4 bits."""
        return self.layout.bits <= 4

    @property
    def kind(self) -> str:
        """The type of codes, such as int4."""
        return f"{'int' if self.zero is None else 'uint'}{4 if self.is_narrow else 8}"

    def to_dense(self) -> Tensor:
        blocks = {"axis": 1, "block_size": min(self.layout.width, self.shape[1])}
        attributes = [{}, {"axis": 0}, blocks][self.scale.ndim]
        zero = () if self.zero is None else (self.zero,)
        return node(
            "::DequantizeLinear",
            (self.codes, self.scale, *zero),
            attributes,
            shape=self.shape,
            marks={NARROW: self.kind} if self.is_narrow else {},
        )

    @property
    def nbytes(self) -> int:
        counts = (self.codes.numel(), 0 if self.zero is None else self.zero.numel())
        codes = sum(-(-n // 2) if self.is_narrow else n for n in counts)
        return codes + self.scale.nbytes

    def describe(self) -> str:
        size = self.layout.group_size
        rows = "per tensor" if size == "tensor" and self.is_narrow else "per channel"
        groups = f"group {size}" if isinstance(size, int) else rows
        return f"DequantizeLinear, {self.kind}, {groups}"


class Multiplied(OnnxWeight):
    """The same codes multiplied as they are, by ``MatMulNBits`` of onnxruntime, in float32.

    Args:
        form: of which `fits_matmul` holds.

    Source: the contrib operators of onnxruntime, com.microsoft.MatMulNBits, version 1.
    """

    def __init__(self, form: Quantized) -> None:
        super().__init__(form.shape)
        self.dequantized = Dequantized(form)
        codes, scale, zero = levels_of(form)
        (rows, columns), width = form.shape, form.layout.width
        count = -(-columns // width)
        self.bits = 4 if self.dequantized.is_narrow else 8
        if zero is None:  # The operator subtracts half of the range by itself.
            codes = (codes + 2 ** (self.bits - 1)).byte()
        padded = nn.functional.pad(codes, (0, count * width - columns))
        zero = None if zero is None else zero.view(rows, count)
        if self.bits == 4:
            padded = in_pairs(padded)
            zero = None if zero is None else in_pairs(nn.functional.pad(zero, (0, count % 2)))
        self.width = width
        self.register_buffer("packed", padded.view(rows, count, -1))
        self.register_buffer("scale", scale.flatten())
        self.register_buffer("zero", None if zero is None else zero.flatten())

    def to_dense(self) -> Tensor:
        return self.dequantized.to_dense()

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        if type(operation) is not Multiply:
            return super().forward(x, operation, bias)
        rows, columns = self.shape
        sizes = {"K": columns, "N": rows, "bits": self.bits, "block_size": self.width}
        stored = [tensor for tensor in self._buffers.values() if tensor is not None]
        y = node(
            "com.microsoft::MatMulNBits",
            (x, *stored),
            # In float32: by itself onnxruntime may round the inputs to 8 bits.
            sizes | {"accuracy_level": 1},
            shape=(*x.shape[:-1], rows),
            version=1,
        )
        return operation.add_bias(y, bias)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._buffers.values() if tensor is not None)

    def describe(self) -> str:
        return f"MatMulNBits, {self.bits} bits, block {self.width}"


class Converted(OnnxWeight):
    """Values of 16 bits, by ``Cast``."""

    values: Tensor

    def __init__(self, form: Half) -> None:
        super().__init__(form.shape)
        self.dtype = form.stored_dtype
        self.register_buffer("values", form.stored.view(form.stored_dtype))

    def to_dense(self) -> Tensor:
        return node(f"{LATER}::Cast", (self.values,), {"to": FLOAT}, shape=self.shape)

    @property
    def nbytes(self) -> int:
        return 2 * math.prod(self.shape)

    def describe(self) -> str:
        return f"Cast, {dtype_name(self.dtype)}"


class Looked(OnnxWeight):
    """Values of one codebook, by ``Gather`` of codes of 8 bits."""

    codes: Tensor
    centroids: Tensor

    def __init__(self, form: Codebook) -> None:
        super().__init__(form.shape)
        self.register_buffer("codes", form.current_codes())
        self.register_buffer("centroids", form.centroids.detach().flatten())

    def to_dense(self) -> Tensor:
        return node(f"{LATER}::Gather", (self.centroids, self.codes), {}, shape=self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) + self.centroids.nbytes

    def describe(self) -> str:
        return "Gather, uint8 codes of one codebook"
