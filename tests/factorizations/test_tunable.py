"""Numbers that may be moved: what is stored of them, and what the matrix is in their place."""

import pytest
import torch

from lowrank.factorizations import Layout, Quantized, ScaledColumns

BITS = 3


def quantized(zero, bits=BITS):
    torch.manual_seed(0)
    layout = Layout((5, 7), bits, 3)
    zeros = {
        "none": None,
        "integer": torch.randint(2**bits, (layout.count,)),
        "real": torch.rand(layout.count).half(),
    }
    codes = torch.randint(2**bits, layout.shape)
    return Quantized(layout, codes, torch.rand(layout.count).half(), zeros[zero])


def forms():
    for zero in ("none", "integer", "real"):
        yield pytest.param(quantized(zero), id=zero)
    yield pytest.param(quantized("integer", bits=1), id="1 bit")
    yield pytest.param(ScaledColumns(quantized("real"), torch.rand(7).half()), id="columns")


@pytest.mark.parametrize("form", list(forms()))
def test_what_is_stored_of_the_numbers_is_the_buffer(form):
    assert form.tunable()
    for name, tunable in form.tunable().items():
        buffer, numbers = form.get_buffer(name), tunable.numbers
        assert torch.equal(tunable.rounded(numbers), numbers)
        stored = tunable.stored(numbers)
        assert stored.dtype == buffer.dtype and torch.equal(stored, buffer)
        near = numbers + 1e-4 * torch.randn(numbers.shape)
        kept = tunable.stored(tunable.rounded(near.clamp(*tunable.limits)))
        assert kept.dtype == buffer.dtype and kept.shape == buffer.shape


@pytest.mark.parametrize("form", list(forms()))
def test_in_the_buffers_place_they_give_the_same_matrix_and_its_derivative(form):
    dense, direction = form.to_dense(), torch.randn(5, 7)
    for name, tunable in form.tunable().items():
        buffer = form.get_buffer(name)
        stand_in = tunable.numbers.clone().requires_grad_()
        setattr(form, name, stand_in)
        given = form.to_dense()
        assert torch.equal(given, dense)
        (slope,) = torch.autograd.grad((given * direction).sum(), stand_in)
        # The matrix is linear in each of them.
        step = torch.randn(stand_in.shape)
        with torch.no_grad():
            stand_in += step
            change = ((form.to_dense() - dense) * direction).sum()
        torch.testing.assert_close((slope * step).sum(), change, rtol=1e-3, atol=1e-3)
        setattr(form, name, buffer)


def test_codes_stay_within_their_bits():
    assert quantized("none").tunable()["codes"].limits == (0, 7)
    assert {name: t.part for name, t in quantized("real").tunable().items()} == {
        "scale": "scales",
        "zero": "scales",
        "codes": "codes",
    }
    assert "zero" not in quantized("integer").tunable()
