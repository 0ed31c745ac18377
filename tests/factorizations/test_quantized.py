import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import tensor_bytes
from safetensors.torch import load, save

from lowrank.factorizations import Layout, Quantized, rebuild


def random_quantized(shape, bits, group_size, zeros, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layout = Layout(shape, bits, group_size)
    codes = torch.randint(2**bits, shape, generator=generator)
    scale = torch.rand(layout.count, generator=generator).half()
    zero = {
        "none": None,
        "integer": torch.randint(2**bits, (layout.count,), generator=generator),
        "real": 3 * torch.randn(layout.count, generator=generator).half(),
    }[zeros]
    return codes, scale, zero, Quantized(layout, codes, scale, zero, dtype)


group_sizes = st.sampled_from(["channel", "tensor"]) | st.integers(1, 12)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 11)),
    bits=st.integers(1, 8),
    group_size=group_sizes,
    zeros=st.sampled_from(["none", "integer", "real"]),
)
def test_every_weight_is_its_code_less_zero_times_the_scale_of_its_group(
    shape, bits, group_size, zeros
):
    codes, scale, zero, quantized = random_quantized(shape, bits, group_size, zeros)
    rows, columns = shape
    width = {"channel": columns, "tensor": rows * columns}.get(group_size, group_size)
    per_row = -(-columns // width) if group_size != "tensor" else 0
    dense = quantized.to_dense()
    for row in range(rows):
        for column in range(columns):
            group = row * per_row + column // width if per_row else 0
            symmetric = 0.5 if bits == 1 else 2 ** (bits - 1)
            offset = symmetric if zero is None else zero[group].item()
            expected = (codes[row, column] - offset) * scale[group].float()
            assert dense[row, column] == expected
    fresh = rebuild(quantized.config())
    fresh.load_state_dict(load(save(quantized.state_dict())))
    assert torch.equal(fresh.to_dense(), dense)
    assert fresh.config() == quantized.config()


@pytest.mark.parametrize(
    ("bits", "group_size", "zeros", "bits_per_weight"),
    [
        (4, 128, "none", 4.125),
        (4, 128, "integer", 4.15625),
        (4, 32, "integer", 4.625),
        (4, 64, "real", 4.5),
        (3, 64, "none", 3.25),
        (1, "channel", "none", 1 + 16 / 256),
        (8, "tensor", "none", 8 + 16 / 2**16),
    ],
)
def test_the_stored_bits_are_those_of_the_formula(bits, group_size, zeros, bits_per_weight):
    *_, quantized = random_quantized((256, 256), bits, group_size, zeros)
    assert 8 * tensor_bytes(quantized) / 256**2 == bits_per_weight


@pytest.mark.parametrize("zeros", ["none", "integer", "real"])
def test_a_change_of_dtype_leaves_what_is_stored_as_it_is(zeros):
    *_, quantized = random_quantized((5, 7), 4, 3, zeros)
    before = copy.deepcopy(quantized.state_dict())
    expected = quantized.to_dense()
    # A code less a real zero point has more digits than float32.
    tolerance = 1e-6 if zeros == "real" else 0
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        quantized.to(dtype)
        assert quantized.to_dense().dtype == dtype
        rounding = tolerance if dtype == torch.float64 else 0
        wanted = expected.to(dtype)
        assert torch.allclose(quantized.to_dense(), wanted, rtol=rounding, atol=rounding)
        assert quantized.config()["dtype"] == str(dtype).removeprefix("torch.")
        assert quantized.derived().dtype == dtype
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
    *_, quantized = random_quantized((5, 7), 4, 3, "integer")
    twin = copy.deepcopy(quantized)
    assert torch.equal(twin.to_dense(), quantized.to_dense())
    twin.scale.zero_()
    assert twin.to_dense().count_nonzero() == 0 != quantized.to_dense().count_nonzero()
    meta = twin.to("meta")
    assert meta.scale.dtype == torch.float16
    assert {tensor.device.type for tensor in meta.buffers()} == {"meta"}


def test_nothing_of_it_is_trained_and_its_codes_are_its_params():
    *_, quantized = random_quantized((5, 7), 4, 3, "none")
    assert not list(quantized.parameters())
    assert quantized.params == 35
    x = torch.randn(2, 7, requires_grad=True)
    quantized(x).sum().backward()
    assert torch.equal(x.grad, quantized.to_dense().sum(0).expand(2, 7))


def test_it_prints_readably():
    *_, quantized = random_quantized((300, 784), 4, 64, "none")
    assert repr(quantized) == "Quantized 784→300, 4 bits, group 64"
    *_, quantized = random_quantized((3, 4), 8, "channel", "integer")
    assert repr(quantized) == "Quantized 4→3, 8 bits, per channel, zero points"
    *_, quantized = random_quantized((3, 4), 8, 2, "real")
    assert repr(quantized) == "Quantized 4→3, 8 bits, group 2, real zero points"


def test_scales_that_do_not_fit_are_refused():
    layout = Layout((3, 4), 4, 2)
    with pytest.raises(ValueError, match=r"scale of shape \(3,\) do not fit .* needs \(6,\)"):
        Quantized(layout, torch.zeros(3, 4), torch.ones(3))
