import copy

import pytest
import torch
from made_tensors import tensor_bytes
from safetensors.torch import load, save

from lowrank.factorizations import Half, rebuild

STORED = pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)


def random_half(stored, dtype=torch.float32):
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(stored)
    return values, Half(values, dtype)


@STORED
def test_it_is_its_values_in_two_bytes_each(stored):
    values, half = random_half(stored, torch.float64)
    assert torch.equal(half.to_dense(), values.double())
    assert tensor_bytes(half) == 2 * values.numel()
    fresh = rebuild(half.config())
    fresh.load_state_dict(load(save(half.state_dict())))
    assert torch.equal(fresh.to_dense(), half.to_dense())
    assert fresh.config() == half.config()


@STORED
def test_a_change_of_dtype_leaves_what_is_stored_as_it_is(stored):
    values, half = random_half(stored)
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        half.to(dtype)
        assert torch.equal(half.to_dense(), values.to(dtype))
        assert half.derived().dtype == half.to_dense().dtype == dtype
        assert half.config()["dtype"] == str(dtype).removeprefix("torch.")
    assert torch.equal(half.half().float().to_dense(), values.float())


def test_it_moves_and_copies_and_keeps_nothing_of_what_it_was_given():
    values, half = random_half(torch.float16)
    values.zero_()
    twin = copy.deepcopy(half)
    half.to_dense().zero_()
    assert torch.equal(twin.to_dense(), half.to_dense()) and half.to_dense().count_nonzero() > 0
    twin.stored.zero_()
    assert twin.to_dense().count_nonzero() == 0 != half.to_dense().count_nonzero()
    assert {tensor.device.type for tensor in twin.to("meta").buffers()} == {"meta"}


def test_where_the_dtype_is_the_stored_one_the_matrix_is_a_copy_too():
    _, half = random_half(torch.float16, torch.float16)
    half.to_dense().zero_()
    assert half.to_dense().count_nonzero() > 0


def test_nothing_of_it_is_trained_and_it_prints_readably():
    _, half = random_half(torch.bfloat16)
    assert not list(half.parameters()) and half.params == 35
    x = torch.randn(2, 7, requires_grad=True)
    half(x).sum().backward()
    assert torch.equal(x.grad, half.to_dense().sum(0).expand(2, 7))
    assert repr(half) == "Half 7→5, bfloat16"


@pytest.mark.parametrize("values", [torch.ones(3, 4), torch.ones(3).half(), torch.ones(3, 4).int()])
def test_what_is_no_matrix_of_16_bits_is_refused(values):
    with pytest.raises(ValueError, match="Half needs a matrix of float16 or bfloat16, not"):
        Half(values)
