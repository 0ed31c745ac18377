"""The default list of kernels."""

from __future__ import annotations

from lowrank.execution.dense import (
    BFloat16Kernel,
    ColumnsKernel,
    DenseKernel,
    DequantizeKernel,
    PackedKernel,
    TransposedKernel,
)
from lowrank.execution.integer import DynamicInt8Kernel, Int8WeightsKernel, PackedInt4Kernel
from lowrank.execution.kernel import Kernel
from lowrank.execution.sparse import BSRKernel, CSRKernel, SemiStructuredKernel

KERNELS: tuple[Kernel, ...] = (
    DenseKernel(),
    ColumnsKernel(),
    TransposedKernel(),
    PackedKernel(),
    CSRKernel(),
    BSRKernel(),
    SemiStructuredKernel(),
    DequantizeKernel(),
    BFloat16Kernel(),
    Int8WeightsKernel(),
    PackedInt4Kernel(),
    DynamicInt8Kernel("fbgemm"),
    DynamicInt8Kernel("onednn"),
)
