"""The kernels that the contract is checked for, and the factorizations that they run."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lowrank.decomposers import (
    EntropyCodedQuantization,
    HalfPrecision,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
)
from lowrank.execution import CompiledKernel, Kernel, Work
from lowrank.execution.dense import (
    BFloat16Kernel,
    ColumnsKernel,
    DenseKernel,
    DequantizeKernel,
    PackedKernel,
    TransposedKernel,
)
from lowrank.execution.integer import DynamicInt8Kernel, Int8WeightsKernel, PackedInt4Kernel
from lowrank.execution.sparse import BSRKernel, CSRKernel, SemiStructuredKernel
from lowrank.execution.tiled import TiledKernel
from lowrank.factorizations import Dense, EntropyCoded, Factorization, Sparse
from lowrank.factorizations.operations import (
    Convolve,
    Lookup,
    Multiply,
    MultiplyTransposed,
    Operation,
)

OUT, INNER = 32, 64  # The smallest that every kernel takes.
ALL = OUT * INNER
SINGLE, DOUBLE = torch.float32, torch.float64
DTYPES = (SINGLE, DOUBLE, torch.bfloat16, torch.float16)


def weight(out: int, into: int, dtype: torch.dtype = SINGLE) -> Tensor:
    generator = torch.Generator().manual_seed(out * 1000 + into)
    return torch.randn(out, into, generator=generator, dtype=torch.float64).to(dtype)


# Besides products, with inputs for a weight of 32 × 64: of 32 channels in two groups.
OPERATIONS: dict[str, tuple[Operation, Tensor]] = {
    "convolution": (
        Convolve((2, 2), stride=(2, 1), padding=(1, 0), groups=2),
        weight(2, 32 * 9 * 8).view(2, 32, 9, 8),
    ),
    "table": (Lookup(), torch.tensor([[1, 4], [0, 7]])),
    "transposed": (MultiplyTransposed(), weight(3, OUT)),
}


def forms(out: int, into: int, dtype: torch.dtype = SINGLE) -> dict[str, Factorization]:
    """What one weight can become, by name."""
    w = weight(out, into, dtype)
    size = (-(-out // 4), -(-into // 4))
    blocks = torch.arange(size[0] * size[1]).view(size) % 3 == 0
    methods = {
        "low rank": TruncatedSVD(rank=3),
        "sparse": MagnitudePruning(0.8),
        "8 bits": Quantization(bits=8),
        "4 bits": Quantization(bits=4, group_size=32),
        "3 bits, zero points": Quantization(bits=3, group_size=64, symmetric=False),
        "half": HalfPrecision(),
        "entropy coded": EntropyCodedQuantization(bits=4),
    }
    if into % 4 == 0:
        methods["2:4"] = MagnitudePruning(pattern="2:4")
    made = {name: method.decompose(w) for name, method in methods.items()}
    made |= {"dense": Dense(w), "none kept": Sparse.from_dense(w, torch.zeros_like(w).bool())}
    return made | {"blocks": Sparse.from_dense(w, blocks, (4, 4))}


def kept(form: Factorization) -> int:
    assert isinstance(form, Sparse)
    return int(form.mask.sum())


@dataclass(frozen=True)
class Row:
    """A kernel and what it is made for.

    Attributes:
        form: by its name in `forms`.
        packed_bytes: what it holds in memory besides a weight of 32 × 64 in float32.
        dtypes: of the inputs that it runs.
        operations: besides products, by their names in `OPERATIONS`.
        refused: (form, its shape, what the refusal says) of what it cannot run.
        device: that it runs on.
    """

    kernel: Kernel
    form: str
    packed_bytes: Callable[[Factorization], int]
    dtypes: tuple[torch.dtype, ...] = (SINGLE,)
    operations: tuple[str, ...] = ()
    refused: tuple[tuple[str, tuple[int, int], str], ...] = ()
    device: str = "cpu"

    def work(
        self,
        dtype: torch.dtype = SINGLE,
        shape: tuple[int, ...] = (3, INNER),
        bias: bool = True,
    ) -> Work:
        """A product that it is made for, on its device."""
        x = weight(1, 5000, dtype)[0, : torch.Size(shape).numel()].view(shape)
        added = weight(1, OUT, dtype)[0].to(self.device) if bias else None
        form = forms(OUT, INNER, dtype)[self.form].to(self.device)
        return Work(form, Multiply(), added, x.to(self.device))


def size(number: int) -> Callable[[Factorization], int]:
    return lambda _: number


def tables(form: Factorization) -> int:
    """Of 2^16 places of 2 bytes and two numbers of 8 for each code, in each context; exponents."""
    assert isinstance(form, EntropyCoded)
    contexts = 1 + int(form.coding[1].total().max())
    return contexts * (2 * 2**16 + 16 * (2 * form.reach + 1)) + 8 * OUT + 2 * INNER + OUT


ROWS = {
    "dense": Row(DenseKernel(), "4 bits", size(4 * ALL), DTYPES, tuple(OPERATIONS)),
    "dense, as it is stored": Row(DenseKernel(), "dense", size(0), DTYPES, tuple(OPERATIONS)),
    "columns": Row(ColumnsKernel(), "low rank", size(4 * ALL), DTYPES),
    "transposed": Row(TransposedKernel(), "dense", size(4 * ALL), DTYPES),
    "packed": Row(PackedKernel(), "dense", size(4 * ALL)),
    "csr": Row(
        CSRKernel(),
        "sparse",
        lambda form: 8 * kept(form) + 4 * (OUT + 1),
        (SINGLE, DOUBLE),
        refused=(("dense", (16, 32), "not stored as a sparse one"),),
    ),
    "csr in small panels": Row(
        CSRKernel(panel=2, columns=5),
        "sparse",
        lambda form: 8 * kept(form) + 13 * 4 * (OUT + 1),
        (SINGLE, DOUBLE),
    ),
    "bsr": Row(
        BSRKernel(),
        "blocks",
        lambda form: 4 * kept(form) + 4 * (kept(form) // 16) + 4 * (OUT // 4 + 1),
        (SINGLE, DOUBLE),
        refused=(
            ("sparse", (16, 32), "blocks of 1x1 in 16x32: it needs whole squares"),
            ("blocks", (18, 32), "blocks of 4x4 in 18x32: it needs whole squares"),
        ),
    ),
    "semi-structured": Row(
        SemiStructuredKernel(),
        "2:4",
        size(ALL // 2 * 2 + ALL // 8),
        (torch.float16, torch.bfloat16),
        device="cuda",
    ),
    "dequantize": Row(
        DequantizeKernel(),
        "4 bits",
        size(0),
        DTYPES,
        tuple(OPERATIONS),
        refused=(
            ("dense", (16, 32), "stored as it is"),
            ("low rank", (16, 32), "one leaf"),
        ),
    ),
    "dequantize trained values": Row(
        DequantizeKernel(), "sparse", size(0), DTYPES, tuple(OPERATIONS)
    ),
    "dequantize half precision": Row(
        DequantizeKernel(), "half", size(0), DTYPES, tuple(OPERATIONS)
    ),
    "bfloat16": Row(
        BFloat16Kernel(), "low rank", size(2 * ALL), (SINGLE, DOUBLE), ("convolution", "transposed")
    ),
    "int8 weights": Row(
        Int8WeightsKernel(),
        "8 bits",
        size(ALL + 2 * OUT),
        refused=(
            ("4 bits", (16, 64), "not codes of 8 bits with one scale a row"),
            ("8 bits", (16, 48), "48 inputs: it needs a multiple of 32"),
        ),
    ),
    "int4 weights": Row(
        PackedInt4Kernel(),
        "4 bits",
        size(ALL // 2 + 4 * OUT * INNER // 32),
        refused=(
            ("8 bits", (16, 32), "not codes of up to 4 bits"),
            ("4 bits", (17, 32), "rows in multiples of 16"),
        ),
    ),
    "int4 weights with zero points": Row(
        PackedInt4Kernel(), "3 bits, zero points", size(ALL // 2 + 4 * OUT)
    ),
    "int8 of fbgemm": Row(DynamicInt8Kernel("fbgemm"), "8 bits", size(ALL + 8 * OUT)),
    "int8 of onednn": Row(DynamicInt8Kernel("onednn"), "8 bits", size(ALL + 8 * OUT)),
    "int8 of a dense weight": Row(DynamicInt8Kernel("fbgemm"), "dense", size(ALL + 8 * OUT)),
    "tiled": Row(
        TiledKernel(weights=5 * INNER),
        "entropy coded",
        tables,
        DTYPES,
        refused=(("4 bits", (16, 32), "decodes entropy codes, and this is none"),),
    ),
    "compiled": Row(CompiledKernel(), "low rank", size(0), DTYPES, tuple(OPERATIONS)),
}

without_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
every_row = pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=name, marks=without_cuda if row.device == "cuda" else ())
        for name, row in ROWS.items()
    ],
)
