"""Kernels that skip zeros: compressed rows, blocks, and N:M patterns on CUDA."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowrank.execution.dense import NO_PRODUCT
from lowrank.execution.kernel import Kernel, Prepared, Work, on_rows
from lowrank.factorizations import Sparse
from lowrank.numerics.checks import check_integer

NOT_SPARSE = "the matrix is not stored as a sparse one"
NO_MKL = "torch multiplies sparse matrices fast through MKL only, which this build lacks"


@dataclass(frozen=True)
class CSRKernel(Kernel):
    """W xᵀ with W in compressed sparse rows and int32 indices, in panels of inputs.

    Takes 8 bytes for each non-zero. `F.linear(x, W)` and indices of 64 bits, the obvious ways to
    call the same library, are up to 9 times slower; a panel stays in the cache while the rows pick
    from it. On a CPU it pays from some 60 % zeros at small batches, 80 to 90 % otherwise.

    Args:
        panel: inputs multiplied at a time, at least 1.
        columns: of the matrix multiplied at a time, at least 1.

    Raises:
        ValueError: fewer of either.
    """

    name: ClassVar[str] = "csr"
    panel: int = 32
    columns: int = 2048

    def __post_init__(self) -> None:
        check_integer("panel", self.panel, least=1)
        check_integer("columns", self.columns, least=1)

    def refusal(self, work: Work) -> str:
        return _sparse_refusal(work)

    def prepare(self, work: Work) -> Prepared:
        return _in_panels(work, Tensor.to_sparse_csr, self.panel, self.columns)


@dataclass(frozen=True)
class BSRKernel(Kernel):
    """The same for kept blocks: one index for each square block of weights.

    Args:
        panel: inputs multiplied at a time, at least 1.

    Raises:
        ValueError: fewer.
    """

    name: ClassVar[str] = "bsr"
    panel: int = 32

    def __post_init__(self) -> None:
        check_integer("panel", self.panel, least=1)

    def refusal(self, work: Work) -> str:
        refusal = _sparse_refusal(work)
        if refusal:
            return refusal
        assert isinstance(work.factorization, Sparse)
        height, width = work.factorization.grid.block
        rows, columns = work.factorization.shape
        if height != width or height == 1 or rows % height or columns % width:
            return f"blocks of {height}x{width} in {rows}x{columns}: it needs whole squares"
        return ""

    def prepare(self, work: Work) -> Prepared:
        assert isinstance(work.factorization, Sparse)
        block, width = work.factorization.grid.block, work.factorization.shape[1]
        return _in_panels(work, lambda dense: dense.to_sparse_bsr(block), self.panel, width)


class SemiStructuredKernel(Kernel):
    """2:4 sparsity on the sparse tensor cores of CUDA devices.

    Twice the multiplications a second at large batches; the device pads small batches, so that a
    batch of 1 is slower than dense.
    """

    name: ClassVar[str] = "semi_structured"

    def refusal(self, work: Work) -> str:
        if work.x.device.type != "cuda":
            return "it runs on CUDA only"
        if torch.cuda.get_device_capability(work.x.device) < (8, 0):
            return "it needs sparse tensor cores, compute capability 8.0"
        if not isinstance(work.factorization, Sparse):
            return NOT_SPARSE
        if not work.multiplies:
            return NO_PRODUCT
        if work.x.dtype not in (torch.float16, torch.bfloat16):
            return "it is for float16 and bfloat16"
        rows, columns = work.factorization.shape
        if rows % 32 or columns % 64:
            return f"{rows}x{columns}: it needs rows in multiples of 32 and columns of 64"
        kept = work.factorization.current_mask().view(rows, columns // 4, 4).sum(dim=2)
        return "" if int(kept.max()) <= 2 else "more than 2 of 4 neighbours are kept somewhere"

    def prepare(self, work: Work) -> Prepared:
        from torch.sparse import to_sparse_semi_structured

        dense = work.matrix()
        packed = _quietly(to_sparse_semi_structured, dense)
        run = work.operation.bind(packed, work.bias)
        # Half of the values, and 2 bits of position for each.
        size = dense.numel() // 2
        held = size * dense.element_size() + size // 4
        return Prepared(on_rows(run), held, read_bytes=held)


def _in_panels(
    work: Work, compress: Callable[[Tensor], Tensor], panel: int, columns: int
) -> Prepared:
    """Multiply by a matrix in compressed rows, in panels of inputs and columns.

    Args:
        compress: makes the compressed matrix of a dense one.
    """
    bias, (rows, width) = work.bias, work.factorization.shape
    starts = range(0, width, columns)
    parts = [slice(start, min(start + columns, width)) for start in starts]
    matrix = work.matrix()
    blocks = [_with_int32(_quietly(compress, matrix[:, part].contiguous())) for part in parts]
    pairs = list(zip(parts, blocks, strict=True))

    def run(x: Tensor) -> Tensor:
        y = x.new_empty(len(x), rows)
        if len(x) == 1:
            # A product with a vector is another routine, three times faster than that with a panel.
            y[0] = sum(block @ x[0, part] for part, block in pairs)
        for start in range(0, len(x), panel) if len(x) > 1 else ():
            inputs = x[start : start + panel].t()
            product = blocks[0] @ inputs[parts[0]]
            for part, block in pairs[1:]:
                torch.addmm(product, block, inputs[part], out=product)
            y[start : start + panel] = product.t()
        return y if bias is None else y.add_(bias)

    tensors = [tensor for block in blocks for tensor in _stored(block)]
    read = sum(tensor.nbytes for tensor in tensors)
    return Prepared(on_rows(run), work.extra_bytes(*tensors), read_bytes=read)


def _with_int32(compressed: Tensor) -> Tensor:
    """The same matrix with indices of 32 bits."""
    starts, columns, values = _stored(compressed)
    return torch.sparse_compressed_tensor(
        *(starts.int(), columns.int(), values, compressed.shape),
        layout=compressed.layout,
        check_invariants=False,  # Torch made them.
    )


def _stored(compressed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return compressed.crow_indices(), compressed.col_indices(), compressed.values()


def _sparse_refusal(work: Work) -> str:
    if not isinstance(work.factorization, Sparse):
        return NOT_SPARSE
    if not work.multiplies:
        return NO_PRODUCT
    if work.x.device.type != "cpu" or not torch.backends.mkl.is_available():
        return NO_MKL
    if work.x.dtype not in (torch.float32, torch.float64):
        return "MKL multiplies sparse matrices in float32 and float64 only"
    return ""


def _quietly(make: Callable[[Tensor], Any], dense: Tensor) -> Any:
    """`make(matrix)` without torch's warning about its beta layouts."""
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        return make(dense)
