import functools

import made_tensors
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import tensor_bytes

from lowrank.decomposers import Chain, HalfPrecision, MagnitudePruning, TruncatedSVD
from lowrank.norms import Diagonal, Full

random = functools.partial(made_tensors.random, dtype=torch.float32)


def bits_per_weight(form):
    stored = tensor_bytes(form)
    return 8 * stored / (form.shape[0] * form.shape[1])


def test_values_are_those_of_numpy():
    weight = random(30, 40) * torch.logspace(-7, 2, 40)
    expected = weight.numpy().astype(np.float16).astype(np.float32)
    assert np.array_equal(HalfPrecision().decompose(weight).to_dense().numpy(), expected)


@given(
    dtype=st.sampled_from([("float16", 2.0**-11), ("bfloat16", 2.0**-8)]),
    exponent=st.floats(-4, 4),
    spread=st.floats(0, 12),
    seed=st.integers(0, 1000),
)
def test_no_entry_changes_by_more_than_its_share_of_the_largest(dtype, exponent, spread, seed):
    name, share = dtype
    weight = random(6, 9, seed=seed) * torch.logspace(exponent - spread, exponent, 9)
    error = (HalfPrecision(name).decompose(weight).to_dense() - weight).abs()
    assert error.max() <= share * weight.abs().max()


def test_with_pruning_and_svd_the_bits_are_16_a_value_and_the_index():
    weight = random(128, 64)
    half = Chain([MagnitudePruning(0.5, within="row"), HalfPrecision()]).decompose(weight)
    assert bits_per_weight(half) == 9
    half = Chain([MagnitudePruning(0.7), HalfPrecision()]).decompose(weight)
    assert bits_per_weight(half) == pytest.approx(5.8, abs=16 / weight.numel())
    low_rank = Chain([TruncatedSVD(16), HalfPrecision("bfloat16")]).decompose(weight)
    assert bits_per_weight(low_rank) == 16 * 16 * (128 + 64) / (128 * 64)


def test_pruned_weights_stay_zero_and_the_others_are_rounded():
    weight = random(20, 30)
    pruned = MagnitudePruning(0.5).decompose(weight).to_dense()
    half = Chain([MagnitudePruning(0.5), HalfPrecision()]).decompose(weight).to_dense()
    assert torch.equal(half, pruned.half().float())


def test_a_diagonal_norm_changes_nothing():
    weight = random(5, 4)
    form = HalfPrecision().decompose(weight, Diagonal(torch.tensor([1.0, 0, 3, 9])))
    assert torch.equal(form.to_dense(), weight.half().float())
    with pytest.raises(ValueError, match="HalfPrecision cannot approximate in the norm Full"):
        HalfPrecision().decompose(weight, Full(torch.eye(4)))


@pytest.mark.parametrize(
    ("dtype", "scale", "text"),
    [
        ("float16", 1e6, r"largest of 35 values, .*e\+06, is above the largest of dtype='float16'"),
        ("float16", 1e-6, "is below the smallest normal number of dtype='float16'. Use dtype='bf"),
        ("bfloat16", 1e60, r"e\+60, is above the largest of dtype='bfloat16'"),
        ("bfloat16", 1e-60, "e-60, is below the smallest normal number of dtype='bfloat16'"),
    ],
)
def test_what_16_bits_do_not_hold_is_refused(dtype, scale, text):
    with pytest.raises(ValueError, match=text):
        HalfPrecision(dtype).decompose(random(5, 7, dtype=torch.float64) * scale)


def test_a_dtype_that_does_not_exist():
    with pytest.raises(ValueError, match=r"dtype='float8' must be one of \('float16', 'bfloat16'"):
        HalfPrecision("float8")
