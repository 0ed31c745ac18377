"""Kernels of integer codes: 8-bit products, and 8- and 4-bit weights beside bfloat16 inputs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowrank.execution.dense import NO_PRODUCT
from lowrank.execution.kernel import Accuracy, Kernel, Prepared, Work, on_rows
from lowrank.factorizations import Quantized
from lowrank.factorizations.packing import Layout, unpack
from lowrank.factorizations.quantized import symmetric_zero
from lowrank.numerics.checks import check_one_of

ENGINES = ("fbgemm", "onednn")


@dataclass(frozen=True)
class DynamicInt8Kernel(Kernel):
    """Inputs rounded to 8 bits in every pass, products in integers: `quantized::linear_dynamic`.

    Weights of one scale a row, up to 8 bits, keep their codes; others are rounded to 8 bits a row.
    The inputs of a batch share one scale, so that an output depends, within the error, on what
    else is in the batch, and an outlier coarsens all. Takes 1 byte for each weight.

    Args:
        engine: of torch's quantized operations, ``fbgemm`` or ``onednn``.

    Raises:
        ValueError: another engine.
    """

    accuracy: ClassVar[Accuracy] = "int8"
    engine: str = "fbgemm"

    def __post_init__(self) -> None:
        check_one_of("engine", self.engine, ENGINES)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Such as ``int8_fbgemm``."""
        return f"int8_{self.engine}"

    def refusal(self, work: Work) -> str:
        if self.engine not in torch.backends.quantized.supported_engines:
            return f"this build of torch has no engine {self.engine}"
        return _cpu_product_refusal(work)

    def prepare(self, work: Work) -> Prepared:
        codes, scale = int8_rows(work)
        bias = None if work.bias is None else work.bias.detach()
        packed = _packed_by(self.engine, codes, scale, bias)
        # Without VNNI, sums of two products can overflow 16 bits unless the inputs have 7.
        narrow = not torch.cpu._is_vnni_supported()
        linear = torch.ops.quantized.linear_dynamic

        def run(x: Tensor) -> Tensor:
            return linear(x, packed, narrow)

        # A scale and a sum of the row's codes beside the codes.
        held = codes.nbytes + 8 * len(codes)
        return Prepared(on_rows(run), held, read_bytes=held)


class Int8WeightsKernel(Kernel):
    """8-bit weights of one scale a row beside inputs in bfloat16: for a batch of few.

    The same codes as those of the product in integers; only inputs, scales and outputs are rounded,
    to bfloat16.
    """

    name: ClassVar[str] = "int8_weights"
    accuracy: ClassVar[Accuracy] = "bfloat16"

    def refusal(self, work: Work) -> str:
        refusal = _cpu_product_refusal(work)
        rows, columns = work.factorization.shape
        if refusal or _row_codes(work) is None:
            return refusal or "the weights are not codes of 8 bits with one scale a row"
        # It reads whole vectors, past the end of other matrices.
        return "" if columns % 32 == 0 else f"{columns} inputs: it needs a multiple of 32"

    def prepare(self, work: Work) -> Prepared:
        codes, scale = int8_rows(work)
        rounded, bias = scale.to(torch.bfloat16), work.bias

        def run(x: Tensor) -> Tensor:
            y = torch.ops.aten._weight_int8pack_mm(_rounded(x), codes, rounded).float()
            return y if bias is None else y + bias

        held = codes.nbytes + rounded.nbytes
        return Prepared(on_rows(run), held, read_bytes=held)


class PackedInt4Kernel(Kernel):
    """Codes of up to 4 bits as they are, beside inputs in bfloat16: for a batch of few.

    Takes half a byte for each weight and 4 bytes for each group. Groups of 32, 64, 128 or 256.
    """

    name: ClassVar[str] = "int4_weights"
    accuracy: ClassVar[Accuracy] = "bfloat16"

    def refusal(self, work: Work) -> str:
        refusal = _cpu_product_refusal(work)
        form = work.factorization
        if refusal or not isinstance(form, Quantized) or form.layout.bits > 4:
            return refusal or "the weights are not codes of up to 4 bits"
        rows, columns = form.shape
        size = _int4_group(form.layout)
        if rows % 16 or not size or columns % size:
            return (
                f"{form.layout.describe()}: it needs rows in multiples of 16 and groups of 32, 64, "
                "128 or 256 that divide the columns"
            )
        return ""

    def prepare(self, work: Work) -> Prepared:
        form, bias = work.factorization, work.bias
        assert isinstance(form, Quantized)
        layout, (rows, columns) = form.layout, form.shape
        size = _int4_group(layout)
        codes = unpack(form.codes, layout.bits, rows * columns).view(form.shape)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
        scale, zero = form.scale.float(), _zeros(form)
        # (code − zero) · scale is stored as (code − 8) · scale + shift.
        table = torch.stack([scale, (8 - zero) * scale], dim=-1).view(-1, 1, 2)
        groups = rows * columns // size
        table = table.expand(-1, groups // len(table), 2).reshape(rows, columns // size, 2)
        table = table.transpose(0, 1).to(torch.bfloat16).contiguous()

        def run(x: Tensor) -> Tensor:
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(_rounded(x), packed, size, table)
            return y.float() if bias is None else y.float() + bias

        held = packed.nbytes + table.nbytes
        return Prepared(on_rows(run), held, read_bytes=held)


def _rounded(x: Tensor) -> Tensor:
    """The inputs as the packed products read them: in bfloat16, and one row after the other."""
    return x.to(torch.bfloat16, memory_format=torch.contiguous_format)


def int8_rows(work: Work) -> tuple[Tensor, Tensor]:
    """The matrix as 8-bit codes (out, in) and one scale a row (out,), float32.

    Exactly so where it is quantized to them; else each row is rounded by its largest weight.
    """
    exact = _row_codes(work)
    if exact is not None:
        return exact
    matrix = work.matrix().float()
    scale = (matrix.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (matrix / scale[:, None]).round().to(torch.int8), scale


def _row_codes(work: Work) -> tuple[Tensor, Tensor] | None:
    """Codes minus zero points and scales, if they have one scale a row and fit in 8 bits."""
    form = work.factorization
    if not isinstance(form, Quantized) or form.layout.group_size not in ("channel", "tensor"):
        return None
    rows, columns = form.shape
    codes = unpack(form.codes, form.layout.bits, rows * columns).view(form.shape).float()
    levels = codes - _zeros(form).expand(rows)[:, None]
    if not torch.equal(levels, levels.round()) or levels.min() < -128 or levels.max() > 127:
        return None
    scale = form.scale.float().expand(rows)
    # The scales keep their signs, with which all levels of 8 bits fit.
    used = scale != 0
    return (levels * used[:, None]).to(torch.int8), torch.where(used, scale, 1.0)


def _zeros(form: Quantized) -> Tensor:
    """The zero point of each group, float32."""
    count = form.layout.count
    if form.zero is None:
        return torch.full((count,), float(symmetric_zero(form.layout.bits)))
    if form.zero.is_floating_point():
        return form.zero.float()
    return unpack(form.zero, form.layout.bits, count).float()


def _int4_group(layout: Layout) -> int:
    """The group size to pack by: the layout's own, or a divisor of its longer groups; else 0."""
    sizes = (256, 128, 64, 32)
    if layout.group_size == "tensor" or layout.width == layout.shape[1]:
        return next((size for size in sizes if layout.shape[1] % size == 0), 0)
    return layout.width if layout.width in sizes else 0


def _cpu_product_refusal(work: Work) -> str:
    if not work.multiplies:
        return NO_PRODUCT
    if work.x.device.type != "cpu":
        return "it runs on CPUs only"
    return "" if work.x.dtype == torch.float32 else "it is for inputs of float32"


def _packed_by(engine: str, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    """The weights in the form that an engine of torch's quantized operations runs."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        with warnings.catch_warnings():
            # Quantized tensors are deprecated; here they are only the way to the packed form.
            warnings.simplefilter("ignore")
            zeros = torch.zeros(len(codes), dtype=torch.int64)
            make = torch.ops.aten._make_per_channel_quantized_tensor
            weight = make(codes, scale.double(), zeros, 0)
            return torch.ops.quantized.linear_prepack(weight, bias)
    finally:
        torch.backends.quantized.engine = before
