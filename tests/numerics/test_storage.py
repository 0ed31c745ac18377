"""A tensor is stored in the fewest bits that hold its numbers, and comes back bit for bit."""

import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lowrank.export import checkpoint
from lowrank.numerics.storage import stored_bytes, stored_dtype

BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
MASKS = {torch.float32: (23, 8), torch.float64: (52, 11)}


def holds(pattern: int, dtype: torch.dtype, kept: int, exponents: range) -> bool:
    """Whether a float of these bits has so many bits of fraction, by its definition.

    Args:
        kept: bits of a fraction in the narrower dtype.
        exponents: of its normal numbers.
    """
    fraction_bits, exponent_bits = MASKS[dtype]
    fraction = pattern & (2**fraction_bits - 1)
    exponent = pattern >> fraction_bits & (2**exponent_bits - 1)
    if exponent == 2**exponent_bits - 1:
        return fraction == 0  # Infinite; of NaN nothing is promised.
    bias = 2 ** (exponent_bits - 1) - 1
    if exponent == 0 and fraction == 0:
        return True
    # As an integer times a power of two, the integer odd.
    number = fraction + (2**fraction_bits if exponent else 0)
    power = max(exponent, 1) - bias - fraction_bits
    zeros = (number & -number).bit_length() - 1
    number, power = number >> zeros, power + zeros
    largest = number.bit_length() - 1 + power
    return (
        number.bit_length() <= kept + 1
        and largest <= exponents[-1]
        and power >= (exponents[0] - kept)
    )


HALVES = {torch.bfloat16: (7, range(-126, 128)), torch.float16: (10, range(-14, 16))}


@given(st.integers(0, 2**32 - 1), st.integers(0, 22))
def test_16_bits_are_enough_exactly_where_no_bit_is_lost(pattern, zeros):
    pattern &= ~(2**zeros - 1)  # Of random bits, hardly any number would fit.
    signed = struct.unpack("<i", struct.pack("<I", pattern))[0]
    tensor = torch.tensor([signed], dtype=torch.int32).view(torch.float32)
    if bool(tensor.isnan()):
        return
    fits = [dtype for dtype, half in HALVES.items() if holds(pattern, torch.float32, *half)]
    assert stored_dtype(tensor) == (fits[0] if fits else torch.float32)
    assert stored_bytes(tensor) == (2 if fits else 4)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9), st.integers(0, 20))
def test_any_bits_come_back(tmp_path_factory, patterns, zeros):
    """NaN with what they carry, −0 and subnormal numbers too."""
    bits = torch.tensor(patterns, dtype=torch.int32).bitwise_and(-(2**zeros))
    model = nn.Module()
    model.register_buffer("x", bits.view(torch.float32))
    path = tmp_path_factory.mktemp("bits") / "m"
    checkpoint.save(model, path)
    loaded = checkpoint.load(path, model)
    assert loaded.x.dtype == torch.float32
    assert torch.equal(loaded.x.view(torch.int32), bits)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, -0.0], torch.bfloat16),
        ([1.0, 256.0], torch.bfloat16),
        ([math.inf, -math.inf], torch.bfloat16),
        ([3e38], torch.float32),
        ([2.0**127], torch.bfloat16),
        ([1 + 2**-7], torch.bfloat16),
        ([1 + 2**-8], torch.float16),
        ([1 + 2**-10], torch.float16),
        ([1 + 2**-11], torch.float32),
        ([2.0**-24], torch.bfloat16),
        ([3 * 2.0**-24, 1025.0], torch.float16),
        ([65504.0], torch.float16),
        ([65505.0], torch.float32),
        ([2.0**-149], torch.float32),
        ([2.0**-133], torch.bfloat16),
        ([1 + 2**-8, 2.0**100], torch.float32),
        ([0.1], torch.float32),
    ],
)
def test_by_hand(values, wanted):
    assert stored_dtype(torch.tensor(values)) == wanted
    assert stored_dtype(torch.tensor(values).double()) == wanted


def test_what_has_64_bits_may_need_32():
    assert stored_dtype(torch.tensor([0.1], dtype=torch.float64)) == torch.float64
    assert stored_dtype(torch.tensor([0.1]).double()) == torch.float32
    assert stored_dtype(torch.tensor([2.0**200], dtype=torch.float64)) == torch.float64
    assert stored_dtype(torch.tensor([2.0**-149], dtype=torch.float64)) == torch.float32


@pytest.mark.parametrize("place", [0, 1, 1023, 1024, 20_000, 299_999])
def test_one_number_decides_wherever_it_is(place):
    tensor = torch.ones(300_000)
    assert stored_dtype(tensor) == torch.bfloat16
    tensor[place] = 0.1
    assert stored_dtype(tensor) == torch.float32


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]
)
def test_others_stay_as_they_are(dtype):
    assert stored_dtype(torch.ones(3).to(dtype)) == dtype
    assert stored_bytes(torch.ones(3).to(dtype)) == 3 * dtype.itemsize


def test_any_layout_is_looked_at():
    matrix = torch.arange(12.0).view(3, 4)
    matrix[0, 3] = 0.1
    assert stored_dtype(matrix) == stored_dtype(matrix.T) == torch.float32
    assert stored_dtype(matrix[:, :3]) == stored_dtype(matrix[:, ::2]) == torch.bfloat16
    assert stored_bytes(torch.ones(1).expand(5, 2)) == 20
    assert stored_bytes(torch.ones(0, 3)) == 0
    assert stored_dtype(torch.ones(3, device="meta")) == torch.float32
    assert stored_dtype(nn.Parameter(torch.ones(2))) == torch.bfloat16
    with torch.inference_mode():
        assert stored_dtype(torch.ones(2)) == torch.bfloat16
