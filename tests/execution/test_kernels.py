"""Every kernel computes what the factorization does, within the accuracy that it declares."""

import pytest
import torch
from torch import Tensor

from lowrank.decomposers import HalfPrecision, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.execution import KERNELS, CompiledKernel, Kernel, Work
from lowrank.execution.integer import int8_rows
from lowrank.execution.kernel import bound, check_accuracy, relative_error
from lowrank.factorizations import Dense, Factorization, Layout, Quantized, Sparse
from lowrank.factorizations.operations import Convolve, Lookup, Multiply, MultiplyTransposed
from lowrank.norms import IDENTITY

ALL = {kernel.name: kernel for kernel in KERNELS}
CPU = [name for name in ALL if name != "semi_structured"]


def weight(out: int, into: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(out * 1000 + into)
    return torch.randn(out, into, generator=generator, dtype=torch.float64).to(dtype)


def forms(out: int, into: int, dtype: torch.dtype = torch.float32) -> dict[str, Factorization]:
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
    }
    made = {name: method.decompose(w, IDENTITY) for name, method in methods.items()}
    made |= {"dense": Dense(w), "none kept": Sparse.from_dense(w, torch.zeros_like(w).bool())}
    return made | {"blocks": Sparse.from_dense(w, blocks, (4, 4))}


SHAPES = [(1, 1), (7, 5), (4, 8), (16, 32), (48, 64), (33, 96), (32, 128)]
BATCHES = [(1,), (3,), (33,), (2, 3), (2, 1, 4), (), (0,)]


def check(kernel: Kernel, work: Work) -> None:
    with torch.no_grad():
        run = kernel.prepare(work).run
        for batch in BATCHES:
            x = torch.randn(*batch, work.x.shape[-1], dtype=work.x.dtype)
            expected, found = work.native(x), run(x)
            assert found.shape == expected.shape and found.dtype == expected.dtype
            assert found.is_contiguous()
            if x.numel():
                assert relative_error(found, expected) <= bound(kernel.accuracy, x.dtype)


@pytest.mark.parametrize("name", CPU)
def test_kernels_multiply_like_the_factorization(name):
    kernel, ran = ALL[name], 0
    for out, into in SHAPES:
        kinds = forms(out, into) if min(out, into) >= 4 else {"dense": Dense(weight(out, into))}
        for form in kinds.values():
            for bias in (None, torch.randn(out)):
                torch.manual_seed(0)
                work = Work(form, Multiply(), bias, torch.randn(3, into))
                if not kernel.refusal(work):
                    check(kernel, work)
                    ran += 1
    assert ran


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CPU)
def test_kernels_keep_other_dtypes_or_refuse_them(name, dtype):
    kernel = ALL[name]
    for form in (
        Dense(weight(16, 32, dtype)),
        MagnitudePruning(0.5).decompose(weight(16, 32, dtype), IDENTITY),
    ):
        work = Work(form, Multiply(), torch.randn(16, dtype=dtype), torch.randn(3, 32, dtype=dtype))
        if not kernel.refusal(work):
            check(kernel, work)


@pytest.mark.parametrize("name", CPU)
def test_convolutions_and_tables_run_or_are_refused(name):
    kernel = ALL[name]
    convolve = Convolve((3, 3), stride=(2, 1), padding=(1, 0), groups=2)
    form = TruncatedSVD(rank=4).decompose(weight(8, 27), IDENTITY)
    leaf = MagnitudePruning(0.5).decompose(weight(8, 27), IDENTITY)
    image, ids = torch.randn(2, 6, 9, 8), torch.tensor([[1, 4], [0, 7]])
    works = [
        Work(form, convolve, torch.randn(8), image),
        Work(leaf, convolve, None, image),
        Work(leaf, Lookup(), None, ids),
        Work(leaf, MultiplyTransposed(), None, torch.randn(3, 8)),
    ]
    for work in works:
        if not kernel.refusal(work):
            with torch.no_grad():
                found, expected = kernel.prepare(work).run(work.x), work.native(work.x)
            assert relative_error(found, expected) <= bound(kernel.accuracy, expected.dtype)
    assert name == "dense" or kernel.refusal(works[2]) or kernel.accuracy == "exact"


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("csr", "sparse"),
        ("bsr", "blocks"),
        ("int8_weights", "8 bits"),
        ("int4_weights", "4 bits"),
        ("int4_weights", "3 bits, zero points"),
        ("int8_fbgemm", "8 bits"),
        ("dequantize", "half"),
    ],
)
def test_kernels_run_what_they_are_made_for(name, form):
    work = Work(forms(48, 64)[form], Multiply(), None, torch.randn(3, 64))
    assert ALL[name].refusal(work) == ""


@pytest.mark.parametrize(
    ("name", "form", "shape", "why"),
    [
        ("csr", "dense", (16, 32), "not stored as a sparse one"),
        ("bsr", "sparse", (16, 32), "blocks of 1x1 in 16x32: it needs whole squares"),
        ("semi_structured", "sparse", (16, 32), "CUDA only"),
        ("int8_weights", "4 bits", (16, 64), "not codes of 8 bits with one scale a row"),
        ("int8_weights", "8 bits", (16, 48), "48 inputs: it needs a multiple of 32"),
        ("int4_weights", "8 bits", (16, 32), "not codes of up to 4 bits"),
        ("int4_weights", "4 bits", (17, 32), "rows in multiples of 16"),
        ("dequantize", "dense", (16, 32), "stored as it is"),
        ("dequantize", "low rank", (16, 32), "one leaf"),
    ],
)
def test_refusals_say_why(name, form, shape, why):
    work = Work(forms(*shape)[form], Multiply(), None, torch.randn(3, shape[1]))
    assert why in ALL[name].refusal(work)


def test_sparse_panels_and_column_blocks_cover_everything():
    kernel = type(ALL["csr"])(panel=2, columns=5)
    work = Work(forms(16, 32)["sparse"], Multiply(), torch.randn(16), torch.randn(3, 32))
    check(kernel, work)


@pytest.mark.parametrize("sign", [1, -1])
def test_codes_of_eight_bits_are_kept(sign):
    codes = torch.randint(0, 256, (6, 9), generator=torch.Generator().manual_seed(0))
    codes[:, :2] = torch.tensor([0, 255])
    scale = sign * torch.linspace(0, 1, 6)
    form = Quantized(Layout((6, 9), 8, "channel"), codes, scale)
    found, scales = int8_rows(Work(form, Multiply(), None, torch.randn(1, 9)))
    assert torch.equal(found.float() * scales[:, None], form.to_dense())


def test_codes_that_do_not_fit_are_rounded_row_by_row():
    w = weight(5, 40)
    codes, scale = int8_rows(Work(Dense(w), Multiply(), None, torch.randn(1, 40)))
    assert (w - codes * scale[:, None]).abs().max(dim=1).values.le(scale / 2 * 1.0001).all()


def test_packed_bytes():
    x = torch.randn(3, 64)
    made = forms(32, 64)

    def held(name: str, form: str) -> int:
        return ALL[name].prepare(Work(made[form], Multiply(), None, x)).packed_bytes

    kept = int(made["sparse"].mask.sum())  # type: ignore[union-attr]
    assert held("dense", "dense") == 0
    assert held("dense", "4 bits") == held("columns", "4 bits") == 32 * 64 * 4
    assert held("transposed", "dense") == 32 * 64 * 4
    assert held("csr", "sparse") == 8 * kept + 4 * 33
    assert held("bfloat16", "dense") == 32 * 64 * 2
    assert held("int8_fbgemm", "8 bits") == 32 * 64 + 32 * 8
    assert held("int4_weights", "4 bits") == 32 * 64 // 2 + 32 * 2 * 4
    assert held("dequantize", "4 bits") == 0


def test_compiled_functions_do_not_share_their_code():
    from lowrank.execution.compiled import _with_own_code

    def made(number):
        return _with_own_code(lambda x: x + number)

    first, second = made(1), made(2)
    assert first(1) == 2 and second(1) == 3
    assert first.__code__ is not second.__code__
    assert CompiledKernel().refusal(Work(Dense(weight(2, 2)), Multiply(), None, weight(1, 2))) == ""


def test_accuracies():
    assert bound("exact", torch.float32) < 1e-5 < bound("bfloat16", torch.float32)
    assert bound("exact", torch.bfloat16) == bound("bfloat16", torch.bfloat16) > 0.02
    with pytest.raises(ValueError, match="accuracy='fast' does not exist: give 'exact'"):
        check_accuracy("fast")


def test_relative_error():
    ones = torch.ones(4)
    assert relative_error(2 * ones, ones) == 1
    assert relative_error(0 * ones, 0 * ones) == 0
    assert relative_error(ones, 0 * ones) > 0
    assert relative_error(ones * float("nan"), ones) == float("inf")
    assert relative_error(ones * float("inf"), ones) == float("inf")
