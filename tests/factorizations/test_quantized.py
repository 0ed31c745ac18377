import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from lowrank.factorizations import Layout, Quantized, rebuild


def nbytes(module):
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def random_quantized(shape, bits, group_size, symmetric, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layout = Layout(shape, bits, group_size)
    codes = torch.randint(2**bits, shape, generator=generator)
    scale = torch.rand(layout.count, generator=generator).half()
    zero = None if symmetric else torch.randint(2**bits, (layout.count,), generator=generator)
    return codes, scale, zero, Quantized(layout, codes, scale, zero, dtype)


group_sizes = st.sampled_from(["channel", "tensor"]) | st.integers(1, 12)


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 11)),
    bits=st.integers(1, 8),
    group_size=group_sizes,
    symmetric=st.booleans(),
)
def test_every_weight_is_its_code_less_zero_times_the_scale_of_its_group(
    shape, bits, group_size, symmetric
):
    codes, scale, zero, quantized = random_quantized(shape, bits, group_size, symmetric)
    rows, columns = shape
    width = {"channel": columns, "tensor": rows * columns}.get(group_size, group_size)
    per_row = -(-columns // width) if group_size != "tensor" else 0
    dense = quantized.to_dense()
    for row in range(rows):
        for column in range(columns):
            group = row * per_row + column // width if per_row else 0
            offset = (0.5 if bits == 1 else 2 ** (bits - 1)) if symmetric else zero[group].item()
            expected = (codes[row, column] - offset) * scale[group].float()
            assert dense[row, column] == expected
    fresh = rebuild(quantized.config())
    fresh.load_state_dict(load(save(quantized.state_dict())))
    assert torch.equal(fresh.to_dense(), dense)
    assert fresh.config() == quantized.config()


@pytest.mark.parametrize(
    ("bits", "group_size", "symmetric", "bits_per_weight"),
    [
        (4, 128, True, 4.125),
        (4, 128, False, 4.15625),
        (4, 32, False, 4.625),
        (3, 64, True, 3.25),
        (1, "channel", True, 1 + 16 / 256),
        (8, "tensor", True, 8 + 16 / 2**16),
    ],
)
def test_the_stored_bits_are_those_of_the_formula(bits, group_size, symmetric, bits_per_weight):
    *_, quantized = random_quantized((256, 256), bits, group_size, symmetric)
    assert 8 * nbytes(quantized) / 256**2 == bits_per_weight


def test_a_change_of_dtype_leaves_what_is_stored_as_it_is():
    *_, quantized = random_quantized((5, 7), 4, 3, False)
    before = copy.deepcopy(quantized.state_dict())
    expected = quantized.to_dense()
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        quantized.to(dtype)
        assert quantized.to_dense().dtype == dtype
        assert torch.equal(quantized.to_dense(), expected.to(dtype))
        assert quantized.config()["dtype"] == str(dtype).removeprefix("torch.")
        assert quantized.materialize().dtype == dtype
    assert quantized.half().to_dense().dtype == torch.float16
    after = quantized.state_dict()
    assert before.keys() == after.keys()
    assert all(
        a.dtype == b.dtype and torch.equal(a, b)
        for a, b in zip(*map(_values, (before, after)), strict=True)
    )


def _values(state):
    return state.values()


def test_it_moves_and_copies():
    *_, quantized = random_quantized((5, 7), 4, 3, False)
    twin = copy.deepcopy(quantized)
    assert torch.equal(twin.to_dense(), quantized.to_dense())
    twin.scale.zero_()
    assert twin.to_dense().count_nonzero() == 0 != quantized.to_dense().count_nonzero()
    meta = twin.to("meta")
    assert meta.scale.dtype == torch.float16
    assert {tensor.device.type for tensor in meta.buffers()} == {"meta"}


def test_nothing_of_it_is_trained_and_its_codes_are_its_params():
    *_, quantized = random_quantized((5, 7), 4, 3, True)
    assert not list(quantized.parameters())
    assert quantized.params == 35
    x = torch.randn(2, 7, requires_grad=True)
    quantized(x).sum().backward()
    assert torch.equal(x.grad, quantized.to_dense().sum(0).expand(2, 7))


def test_it_prints_readably():
    *_, quantized = random_quantized((300, 784), 4, 64, True)
    assert repr(quantized) == "Quantized 784→300, 4 bits, group 64"
    *_, quantized = random_quantized((3, 4), 8, "channel", False)
    assert repr(quantized) == "Quantized 4→3, 8 bits, per channel, zero points"


def test_scales_that_do_not_fit_are_refused():
    layout = Layout((3, 4), 4, 2)
    with pytest.raises(ValueError, match=r"scale of shape \(3,\) do not fit .* needs \(6,\)"):
        Quantized(layout, torch.zeros(3, 4), torch.ones(3))
