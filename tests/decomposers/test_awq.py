import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import random_off_zero as random

from lowrank.decomposers import AWQ, Quantization
from lowrank.factorizations import Quantized, ScaledColumns
from lowrank.norms import IDENTITY, Diagonal, Full


def strengths(columns, seed=0, dead=0):
    """Mean squares of inputs over four decades; the first may be zero."""
    generator = torch.Generator().manual_seed(seed)
    values = 10 ** (4 * torch.rand(columns, generator=generator, dtype=torch.float64) - 2)
    values[:dead] = 0
    return values


fields = {
    "bits": st.integers(1, 5),
    "group_size": st.sampled_from(["channel", "tensor", 4, 7]),
    "symmetric": st.booleans(),
    "scale": st.sampled_from(["range", "mse"]),
}


def nearest(method):
    return Quantization(method.bits, method.group_size, method.symmetric, method.scale)


@given(
    method=st.builds(AWQ, **fields, steps=st.integers(1, 4)),
    dead=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
def test_it_is_never_worse_than_quantization_in_the_norm(method, dead, seed):
    weight, strength = random(4, 11, seed=seed), strengths(11, seed, dead)
    diagonal = Diagonal(strength, rows=strengths(4, seed))
    x = random(30, 11, seed=seed) * strength.sqrt()
    for norm in (diagonal, Full(x.T @ x / 30)):
        columns = Diagonal(
            norm.second_moment(weight).diagonal(), norm.row_weights(weight).expand(4)
        )
        plain = nearest(method).decompose(weight, columns)
        found = method.decompose(weight, norm)
        assert norm(weight - found.to_dense()) <= norm(weight - plain.to_dense()) * (1 + 1e-9)


@pytest.mark.parametrize("scale", ["range", "mse"])
def test_it_is_the_formula(scale):
    """Every alpha by hand, in the words of the paper: Q(W · diag(s)) · diag(1/s)."""
    weight, strength = random(6, 16), strengths(16)
    norm, method = Diagonal(strength), AWQ(3, 8, scale=scale, steps=5)
    found = method.decompose(weight, norm)
    assert isinstance(found, ScaledColumns)

    def by_hand(alpha):
        s = strength ** (alpha / 2)
        inverse = (1 / s * (s.max() * s.min()).sqrt()).half().double()
        rounding = Quantization(3, 8, scale=scale)
        return rounding.decompose(weight / inverse, Diagonal(strength * inverse**2)), inverse

    def error(alpha):
        quantized, inverse = by_hand(alpha)
        return norm(weight - quantized.to_dense() * inverse)

    alpha = min((step / 5 for step in range(6)), key=error)
    quantized, inverse = by_hand(alpha)
    torch.testing.assert_close(found.to_dense(), quantized.to_dense() * inverse)
    assert found.notes == (f"columns scaled with alpha={alpha:g}",)
    assert torch.equal(found.scale.double(), inverse)


def test_strong_inputs_gain():
    weight, strength = random(64, 128), torch.ones(128, dtype=torch.float64)
    strength[::16] = 400.0
    norm = Diagonal(strength)
    errors = [
        norm(weight - method.decompose(weight, norm).to_dense())
        for scale in ("range", "mse")
        for method in (Quantization(3, 64, scale=scale), AWQ(3, 64, scale=scale))
    ]
    assert errors[1] < 0.65 * errors[0]
    assert errors[3] < 0.96 * errors[2]


@pytest.mark.parametrize("norm", [IDENTITY, Diagonal(torch.full((16,), 3.0))])
@pytest.mark.parametrize("scale", ["range", "mse"])
def test_where_all_inputs_are_equal_it_is_quantization(norm, scale):
    weight = random(6, 16)
    found = AWQ(3, 8, scale=scale).decompose(weight, norm)
    assert isinstance(found, Quantized) and found.notes == ()
    assert torch.equal(
        found.to_dense(), nearest(AWQ(3, 8, scale=scale)).decompose(weight).to_dense()
    )


def test_where_scaling_does_not_help_nothing_is_stored_for_it():
    """At one weight a group each is exact whatever its column's scale."""
    weight, norm = random(4, 8), Diagonal(strengths(8))
    found = AWQ(2, 1, scale_dtype="float32").decompose(weight.float(), norm)
    assert isinstance(found, Quantized)


def test_the_column_scales_are_counted():
    weight, norm = random(64, 128, dtype=torch.float32), Diagonal(strengths(128))
    stored = AWQ(4, 64).decompose(weight, norm).state_dict().values()
    assert 8 * sum(t.nbytes for t in stored) / weight.numel() == 4 + 16 / 64 + 16 / 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_of_any_dtype(dtype):
    weight, norm = random(6, 20, dtype=dtype), Diagonal(strengths(20))
    found = AWQ(4, 8).decompose(weight, norm).to_dense()
    wanted = AWQ(4, 8).decompose(weight.double(), norm).to_dense()
    assert found.dtype == dtype
    # Rounded to the dtype before and after the columns are scaled.
    torch.testing.assert_close(found.double(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 0}, "bits=0 does not exist"),
        ({"bits": 4, "scale": "max"}, "scale='max' must be one of"),
        ({"bits": 4, "steps": 0}, "steps=0 must be at least 1 and an integer"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=text):
        AWQ(**options)
