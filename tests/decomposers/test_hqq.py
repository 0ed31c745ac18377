import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import random_off_zero as random
from made_tensors import tensor_bytes

from lowrank.decomposers import HQQ, Quantization
from lowrank.norms import Diagonal


def sums(layout, difference, power):
    """Σ |e|^power of each group."""
    return (layout.split(difference).abs().pow(power) * layout.filled("cpu")).sum(dim=1)


def splitting(weights, method):
    """The half-quadratic loop for one group in plain numbers, and the best error it met."""
    top, p, beta = 2**method.bits - 1, method.power, 1.0

    def half(value):
        return torch.tensor(value, dtype=torch.float64).half().double().item()

    def level(code, scale, zero):
        return (code - zero) * scale

    def nearest(w, scale, zero):
        return min(max(round(w / scale + zero), 0), top)

    scale = half((max(weights) - min(weights)) / top)
    zero, best = half(-min(weights) / scale), float("inf")
    for _ in range(method.iterations + 1):
        codes = [nearest(w, scale, zero) for w in weights]
        errors = [w - level(c, scale, zero) for w, c in zip(weights, codes, strict=True)]
        best = min(best, sum(abs(e) ** p for e in errors))
        rest = []
        for w, e in zip(weights, errors, strict=True):
            size = abs(e / scale)
            outlier = max(size - size ** (p - 1) / beta, 0) if size else 0
            rest.append(w - (1 if e > 0 else -1) * outlier * scale)
        mean_code, mean = sum(codes) / len(codes), sum(rest) / len(rest)
        covariance = sum((c - mean_code) * (r - mean) for c, r in zip(codes, rest, strict=True))
        scale = half(covariance / sum((c - mean_code) ** 2 for c in codes))
        zero = half(mean_code - mean / scale)
        beta *= 1.01
    return best


@pytest.mark.parametrize("power", [0.5, 0.7, 1.0])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_is_half_quadratic_splitting(bits, power):
    weight, method = random(8, 40), HQQ(bits, 20, power=power)
    weight[:, ::9] *= 5
    found = method.decompose(weight)
    errors = sums(found.layout, weight - found.to_dense(), power)
    plain = Quantization(bits, 20, symmetric=False).decompose(weight).to_dense()
    starts = sums(found.layout, weight - plain, power)
    for error, start, group in zip(errors, starts, found.layout.split(weight), strict=True):
        expected = min(splitting(group.tolist(), method), start.item())
        assert error.item() == pytest.approx(expected, rel=1e-9)


@given(
    bits=st.integers(1, 6),
    size=st.sampled_from(["channel", "tensor", 1, 4, 7]),
    power=st.sampled_from([0.4, 0.7, 1.0]),
    offset=st.sampled_from([0.0, 3.0, -40.0]),
    seed=st.integers(0, 1000),
)
def test_no_group_is_farther_than_by_its_range_and_more_passes_never_harm(
    bits, size, power, offset, seed
):
    weight = random(4, 11, seed=seed, offset=offset)
    plain = Quantization(bits, size, symmetric=False).decompose(weight)
    errors = [sums(plain.layout, weight - plain.to_dense(), power)]
    for iterations in (1, 3, 20):
        method = HQQ(bits, size, power, iterations)
        errors.append(sums(plain.layout, weight - method.decompose(weight).to_dense(), power))
    for more, less in zip(errors, errors[1:], strict=False):
        assert (less <= more * (1 + 1e-9)).all()


@pytest.mark.parametrize("offset", [0.0, 5.0, -20.0])
def test_evenly_spaced_weights_come_back_whatever_their_offset(offset):
    """Integer zero points would have to reach 0 with as many levels."""
    weight = (0.25 * torch.arange(8.0, dtype=torch.float64) + offset).repeat(3, 2)
    found = HQQ(3, 8).decompose(weight)
    assert torch.equal(found.to_dense(), weight)
    if offset:
        assert not torch.equal(
            Quantization(3, 8, symmetric=False).decompose(weight).to_dense(), weight
        )


@pytest.mark.parametrize(("bits", "gain"), [(2, 0.8), (3, 0.9), (4, 0.95)])
def test_it_is_much_nearer_than_the_range_is(bits, gain):
    weight = random(32, 128)
    errors = [
        float((weight - method.decompose(weight).to_dense()).abs().pow(0.7).sum())
        for method in (Quantization(bits, 64, symmetric=False), HQQ(bits, 64))
    ]
    assert errors[1] < gain * errors[0]


@pytest.mark.parametrize("scale_dtype", ["float16", "bfloat16", "float32"])
def test_zero_points_are_stored_as_scales_are(scale_dtype):
    found = HQQ(4, 64, scale_dtype=scale_dtype).decompose(random(32, 128))
    assert found.zero.dtype == found.scale.dtype == getattr(torch, scale_dtype)
    stored = 8 * tensor_bytes(found) / (32 * 128)
    assert stored == 4 + 2 * 8 * found.scale.element_size() / 64


@pytest.mark.parametrize("bits", [1, 4])
def test_groups_of_zeros_and_constants(bits):
    weight = torch.zeros(3, 8)
    weight[1] = -0.75
    weight[2, 4:] = 0.5
    assert torch.allclose(HQQ(bits, 4).decompose(weight).to_dense(), weight, rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"bits": 9}, "bits=9 does not exist"),
        ({"bits": 4, "power": 0}, r"power=0 must lie in \(0, 1\]"),
        ({"bits": 4, "power": 2.0}, r"power=2.0 must lie in \(0, 1\]"),
        ({"bits": 4, "iterations": 0}, "iterations=0 must be at least 1 and an integer"),
    ],
)
def test_bad_options(fields, text):
    with pytest.raises(ValueError, match=text):
        HQQ(**fields)


def test_it_knows_no_norm_from_data():
    with pytest.raises(ValueError, match="HQQ cannot approximate in the norm Diagonal"):
        HQQ(4).decompose(random(3, 4), Diagonal(torch.ones(4)))
