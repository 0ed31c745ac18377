"""Kernels that multiply one dense matrix, in layouts that matrix libraries treat differently."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lowrank.execution.kernel import Accuracy, Kernel, Prepared, Work, on_rows


class DenseKernel(Kernel):
    """The matrix multiplied out once and applied as the dense layer would be: the reference.

    Holds out · in values, but for a dense leaf, whose weight it is.
    """

    name: ClassVar[str] = "dense"

    def refusal(self, work: Work) -> str:
        return ""

    def prepare(self, work: Work) -> Prepared:
        matrix = work.matrix()
        run = work.operation.bind(matrix, work.bias)
        return Prepared(run, work.extra_bytes(matrix), read_bytes=matrix.nbytes)


class ColumnsKernel(Kernel):
    """(W xᵀ)ᵀ: the same product with inputs as columns, and the outputs copied back to rows.

    Small batches gain where a library is tuned for a wide left matrix; large ones lose the copy.
    """

    name: ClassVar[str] = "columns"

    def refusal(self, work: Work) -> str:
        return "" if work.multiplies else NO_PRODUCT

    def prepare(self, work: Work) -> Prepared:
        matrix = work.matrix()
        column = None if work.bias is None else work.bias.detach()[:, None]

        def run(x: Tensor) -> Tensor:
            product = matrix @ x.t() if column is None else torch.addmm(column, matrix, x.t())
            return product.t().contiguous()

        return Prepared(on_rows(run), work.extra_bytes(matrix), read_bytes=matrix.nbytes)


class TransposedKernel(Kernel):
    """x Vᵀ with V = Wᵀ stored for it: another copy of the matrix, in the other layout."""

    name: ClassVar[str] = "transposed"

    def refusal(self, work: Work) -> str:
        return "" if work.multiplies else NO_PRODUCT

    def prepare(self, work: Work) -> Prepared:
        matrix = work.matrix().t().contiguous()
        bias = None if work.bias is None else work.bias.detach()

        def run(x: Tensor) -> Tensor:
            return x @ matrix if bias is None else torch.addmm(bias, x, matrix)

        return Prepared(on_rows(run), work.extra_bytes(matrix), read_bytes=matrix.nbytes)


class PackedKernel(Kernel):
    """The matrix in the layout that MKL multiplies by inside: it spares packing in every pass.

    Another copy of the matrix, made for the batch size of the inputs; other batches run as dense.
    """

    name: ClassVar[str] = "packed"

    def refusal(self, work: Work) -> str:
        if not work.multiplies:
            return NO_PRODUCT
        if work.x.device.type != "cpu" or not torch.backends.mkl.is_available():
            return "it needs a CPU, and a torch with MKL"
        return "" if work.x.dtype == torch.float32 else "it is for inputs of float32"

    def prepare(self, work: Work) -> Prepared:
        matrix, bias = work.matrix(), work.bias
        rows = work.x.numel() // matrix.shape[1]
        packed = torch.ops.mkl._mkl_reorder_linear_weight(matrix, rows)
        linear = torch.ops.mkl._mkl_linear

        def run(x: Tensor) -> Tensor:
            return linear(x, packed, matrix, bias, rows)

        # The size of MKL's packed copy cannot be read; it is at least that of the matrix.
        held = matrix.nbytes + work.extra_bytes(matrix)
        return Prepared(on_rows(run), held, read_bytes=matrix.nbytes)


class DequantizeKernel(Kernel):
    """The matrix made anew in every pass: no memory held, and nearly always slower than dense.

    The way of libraries that keep only the codes; in the list for comparison.
    """

    name: ClassVar[str] = "dequantize"

    def refusal(self, work: Work) -> str:
        if work.leaf is None:
            return "it is for one leaf; factors are not multiplied out in every pass"
        return "" if work.extra_bytes(work.matrix()) else "the matrix is stored as it is"

    def prepare(self, work: Work) -> Prepared:
        form, operation, bias = work.factorization, work.operation, work.bias
        made = form.shape[0] * form.shape[1] * form.dtype.itemsize
        read = sum(tensor.nbytes for tensor in work.stored())
        return Prepared(lambda x: operation.apply(x, form.to_dense(), bias), 0, made, read)


class BFloat16Kernel(Kernel):
    """The matrix and the inputs rounded to bfloat16, sums in float32 where the device does so.

    Half the bytes; faster where the processor multiplies bfloat16 (AMX, AVX-512 BF16 with a small
    batch, GPUs), slower than float32 elsewhere.
    """

    name: ClassVar[str] = "bfloat16"
    accuracy: ClassVar[Accuracy] = "bfloat16"

    def refusal(self, work: Work) -> str:
        return "" if work.x.dtype in (torch.float32, torch.float64) else WIDER

    def prepare(self, work: Work) -> Prepared:
        matrix = work.matrix().bfloat16()
        run = work.operation.bind(matrix)
        operation, bias, dtype = work.operation, work.bias, work.x.dtype

        def rounded(x: Tensor) -> Tensor:
            # The bias is added in the layer's dtype: it costs nothing, and is not rounded.
            return operation.add_bias(run(x.bfloat16()).to(dtype), bias)

        return Prepared(rounded, work.extra_bytes(matrix), read_bytes=matrix.nbytes)


NO_PRODUCT = "it multiplies matrices, and this layer convolves or looks up"
WIDER = "it is for inputs of float32 or float64"
