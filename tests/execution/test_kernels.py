"""Every kernel computes what the factorization does, within the accuracy that it declares."""

import pytest
import torch
from kernel_rows import forms, weight

from lowrank.execution import KERNELS, Kernel, Work
from lowrank.execution.integer import int8_rows
from lowrank.execution.kernel import bound, check_accuracy, relative_error
from lowrank.factorizations import Dense, Layout, Quantized
from lowrank.factorizations.operations import Multiply

ALL = {kernel.name: kernel for kernel in KERNELS}
CPU = [name for name in ALL if name != "semi_structured"]


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


def test_compiled_functions_do_not_share_their_code():
    from lowrank.execution.compiled import _with_own_code

    def made(number):
        return _with_own_code(lambda x: x + number)

    first, second = made(1), made(2)
    assert first(1) == 2 and second(1) == 3
    assert first.__code__ is not second.__code__


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
