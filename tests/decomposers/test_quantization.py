import functools

import made_tensors
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank.decomposers import Quantization
from lowrank.norms import Diagonal, Full
from lowrank.numerics.pieces import CACHED

random = functools.partial(made_tensors.random_off_zero, dtype=torch.float32)


def error(weight, *args, **options):
    result = Quantization(*args, **options).decompose(weight).to_dense()
    return float((weight.double() - result.double()).norm())


def scale_of_each(quantized):
    """The scale of every weight, (out, in), float64."""
    layout = quantized.layout
    return layout.join(quantized.scale.double()[:, None].expand(-1, layout.width))


bits = st.integers(1, 8)
group_sizes = st.sampled_from(["channel", "tensor"]) | st.integers(1, 12)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 11))
SCALES = ["float16", "bfloat16", "float32"]


@given(
    shape=shapes,
    bits=bits,
    group_size=group_sizes,
    symmetric=st.booleans(),
    scale_dtype=st.sampled_from(SCALES),
    offset=st.sampled_from([-3.0, 0.0, 5.0]),
    seed=st.integers(0, 1000),
)
def test_no_weight_is_more_than_half_a_step_off(
    shape, bits, group_size, symmetric, scale_dtype, offset, seed
):
    weight = random(*shape, seed=seed, dtype=torch.float64, offset=offset)
    quantized = Quantization(bits, group_size, symmetric, scale_dtype=scale_dtype).decompose(weight)
    if symmetric and bits == 1:
        return  # Its two levels do not span the weights.
    limit = scale_of_each(quantized).abs() / 2
    assert ((weight - quantized.to_dense()).abs() <= limit * (1 + 1e-12)).all()


@given(shape=shapes, bits=bits, group_size=group_sizes, seed=st.integers(0, 1000))
def test_a_symmetric_scale_is_that_of_the_formula_rounded_up(shape, bits, group_size, seed):
    weight = random(*shape, seed=seed, dtype=torch.float64)
    quantized = Quantization(bits, group_size).decompose(weight)
    groups = quantized.layout.split(weight)
    high, low = groups.amax(dim=1).clamp_min(0), -groups.amin(dim=1).clamp_max(0)
    levels = 2 ** (bits - 1)
    if bits == 1:
        filled = quantized.layout.filled(weight.device)
        formula = 2 * groups.abs().sum(dim=1) / filled.sum(dim=1)
    else:
        formula = torch.maximum(
            torch.maximum(high, low) / levels, torch.minimum(high, low) / (levels - 0.5)
        )
    # The largest weight lies on the side that has one level more: the side of code 0.
    assert torch.equal(quantized.scale < 0, (high > low) & (bits > 1))
    ratio = quantized.scale.double().abs() / formula
    # float16 has 11 significant bits, so the next number is at most 2^-10 above.
    assert (ratio >= 1 - 1e-12).all() and (ratio <= 1 + 2**-10 + 1e-12).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_one_bit_more_about_halves_the_error(symmetric):
    weight = random(64, 256)
    errors = [error(weight, bits, 64, symmetric) for bits in range(3, 9)]
    for more, less in zip(errors, errors[1:], strict=False):
        assert 1.7 < more / less < 2.4


@given(
    shape=shapes,
    bits=bits,
    group_size=group_sizes,
    symmetric=st.booleans(),
    offset=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 1000),
)
def test_least_squares_is_never_worse_than_the_range(
    shape, bits, group_size, symmetric, offset, seed
):
    weight = random(*shape, seed=seed, dtype=torch.float64, offset=offset)
    layout = Quantization(bits, group_size).decompose(weight).layout
    errors = []
    for scale in ("mse", "range"):
        method = Quantization(bits, group_size, symmetric, scale)
        difference = weight - method.decompose(weight).to_dense()
        errors.append(layout.split(difference).square().sum(dim=1))
    assert (errors[0] <= errors[1] * (1 + 1e-12)).all()


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("outlier", [1.0, 30.0])
def test_least_squares_finds_the_best_scale_of_a_fine_search(bits, outlier):
    weight = random(1, 500, dtype=torch.float64)
    weight[0, 0] *= outlier
    found = error(weight, bits, scale="mse", scale_dtype="float32")
    zero = 0.5 if bits == 1 else 2 ** (bits - 1)
    steps = weight.abs().max() * torch.linspace(0.001, 2.5, 20000, dtype=torch.float64)
    steps = torch.cat([steps, -steps])
    codes = (weight.T / steps + zero).round().clamp(0, 2**bits - 1)
    best = ((codes - zero) * steps - weight.T).norm(dim=0).min()
    assert found <= 1.01 * best


@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_are_fitted_each_by_itself(symmetric):
    method = Quantization(3, "channel", symmetric, scale="mse")
    weight = random(5, CACHED // 2 - 1)
    together = method.decompose(weight).to_dense()
    alone = [method.decompose(row[None]).to_dense() for row in weight]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("scale", ["range", "mse"])
def test_least_squared_error_of_one_bit_is_known(scale):
    # Σ (w ± s/2)² is least for s/2 = mean|w|, and then Σ w² − n · mean|w|².
    weight = random(1, 300, dtype=torch.float64)
    best = float((weight.square().sum() - 300 * weight.abs().mean() ** 2).sqrt())
    assert error(weight, 1, scale=scale, scale_dtype="float32") == pytest.approx(best, rel=1e-6)


@given(shape=shapes, seed=st.integers(0, 1000))
def test_one_bit_by_the_range_is_that_of_weighted_least_squares(shape, seed):
    """Row by row Σ c w² − (Σ c |w|)² / Σ c, and so never more than Σ c w², which zeros have."""
    weight = random(*shape, seed=seed, dtype=torch.float64)
    columns, rows = importance(shape[1], seed), importance(shape[0], seed + 1, dead=0.0)
    columns[0] = 1.0
    norm = Diagonal(columns, rows)
    found = Quantization(1, scale_dtype="float32").decompose(weight, norm)
    squares = (weight.square() @ columns) - (weight.abs() @ columns) ** 2 / columns.sum()
    best = float((squares.clamp_min(0) @ rows).sqrt())
    assert norm(weight - found.to_dense()) == pytest.approx(best, rel=1e-6, abs=1e-6 * norm(weight))
    assert found.notes == ()


def test_one_bit_of_a_group_that_does_not_count_is_its_mean_too():
    weight, columns = random(4, 6, dtype=torch.float64), torch.ones(6)
    columns[:3] = 0
    found = Quantization(1, 3, scale_dtype="float32").decompose(weight, Diagonal(columns))
    wanted = weight.abs().view(4, 2, 3).mean(dim=2).repeat_interleave(3, dim=1)
    torch.testing.assert_close(found.to_dense().abs(), wanted)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_levels_beyond_the_range_of_the_dtype_are_not_taken(dtype, bits, symmetric):
    largest = torch.finfo(dtype).max
    weight = (random(12, 16, dtype=torch.float64).clamp(-1, 1) * largest).to(dtype)
    for scale in ("range", "mse"):
        found = Quantization(bits, "channel", symmetric, scale, "bfloat16").decompose(weight)
        dense = found.to_dense()
        assert bool(dense.isfinite().all())
        # A level less is taken at most, and that only beside the range's end.
        limit = scale_of_each(found).abs() * 1.01
        if scale == "range":
            assert ((dense.double() - weight.double()).abs() <= limit).all()


@given(shape=shapes, bits=st.integers(2, 8), symmetric=st.booleans(), mse=st.booleans())
def test_zeros_stay_exactly_zero(shape, bits, symmetric, mse):
    weight = random(*shape)
    weight[weight < 0.3] = 0
    scale = "mse" if mse else "range"
    result = Quantization(bits, 3, symmetric, scale).decompose(weight).to_dense()
    assert (result[weight == 0] == 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale", ["range", "mse"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_groups_of_zeros_and_constants(bits, scale, symmetric):
    weight = torch.zeros(3, 8)
    weight[1] = -0.75
    weight[2, 4:] = 0.5
    quantized = Quantization(bits, 4, symmetric, scale).decompose(weight)
    result = quantized.to_dense()
    assert (result[0] == 0).all() and (result[2, :4] == 0).all()
    limit = scale_of_each(quantized).abs() / 2
    if scale == "range":
        assert ((result - weight).abs() <= limit * (1 + 1e-6)).all()
    else:
        assert torch.allclose(result, weight, rtol=2e-3)


@pytest.mark.parametrize(
    ("options", "bits_per_weight"),
    [
        ({"bits": 4, "group_size": 128}, 4.125),
        ({"bits": 4, "group_size": 128, "symmetric": False}, 4.15625),
        ({"bits": 4, "group_size": 32, "symmetric": False}, 4.625),
        ({"bits": 3, "group_size": 64, "scale": "mse", "scale_dtype": "float32"}, 3.5),
    ],
)
def test_the_stored_bits_are_those_of_the_formula(options, bits_per_weight):
    weight = random(128, 256)
    stored = Quantization(**options).decompose(weight).state_dict().values()
    assert 8 * sum(tensor.nbytes for tensor in stored) / weight.numel() == bits_per_weight


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_torch_rounds_to_the_same_levels(bits, symmetric):
    weight = random(20, 30) + 0.3
    method = Quantization(bits, "channel", symmetric, scale_dtype="float32")
    quantized = method.decompose(weight)
    if symmetric:
        zero = torch.full((20,), 2 ** (bits - 1), dtype=torch.int32)
    else:
        low = weight.amin(dim=1).clamp_max(0)
        zero = (-low / quantized.scale).round().int()
    expected = torch.fake_quantize_per_channel_affine(
        weight, quantized.scale, zero, axis=0, quant_min=0, quant_max=2**bits - 1
    )
    # Torch multiplies by 1 / scale in float32, and so may round halves to the other side: often
    # the largest weight on the side of fewer levels, in each of the 20 rows, and few others.
    steps = weight.double() / scale_of_each(quantized)
    halves = (steps.frac().abs() - 0.5).abs() < 1e-4
    assert halves.sum() < 30
    result = quantized.to_dense()
    assert torch.allclose(result[~halves], expected[~halves], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 7)])
def test_weights_of_any_dtype_and_shape(dtype, shape):
    weight = random(*shape, dtype=dtype)
    for options in ({}, {"symmetric": False}, {"scale": "mse"}):
        quantized = Quantization(8, 4, **options).decompose(weight)
        result = quantized.to_dense()
        assert result.dtype == dtype and result.shape == weight.shape
        rounding = weight.double().abs() * torch.finfo(dtype).eps
        limit = scale_of_each(quantized).abs() / 2 * (1 + 1e-6) + rounding
        assert ((result.double() - weight.double()).abs() <= limit).all()


@pytest.mark.parametrize("scale", ["range", "mse"])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1e6, 1e36])
def test_any_magnitude_that_the_scale_can_hold(magnitude, scale):
    weight = random(6, 40)
    expected = error(weight, 4, 8, scale=scale, scale_dtype="float32") * magnitude
    for dtype in ("bfloat16", "float32"):
        found = error(weight * magnitude, 4, 8, scale=scale, scale_dtype=dtype)
        assert found == pytest.approx(expected, rel=0.05 if dtype == "bfloat16" else 1e-4)


@pytest.mark.parametrize(
    ("magnitude", "text"),
    [(1e9, "above the largest"), (1e-9, "too near 0 for the smallest")],
)
def test_scales_that_do_not_fit_are_refused(magnitude, text):
    text = rf"scales, such as .*, are {text} of scale_dtype='float16'. Use scale_dtype='bfloat16'"
    with pytest.raises(ValueError, match=text):
        Quantization(8).decompose(random(3, 4) * magnitude)


@given(
    bits=bits,
    symmetric=st.booleans(),
    mse=st.booleans(),
    exponent=st.floats(-30, -4),
    seed=st.integers(0, 1000),
)
def test_a_group_that_is_next_to_nothing_in_its_matrix_is_rounded_to_next_to_nothing(
    bits, symmetric, mse, exponent, seed
):
    """Such as the padding row of an embedding: float16 has no scale for it alone."""
    weight = random(6, 40, seed=seed, dtype=torch.float64)
    weight[2] *= 10**exponent
    scale = "mse" if mse else "range"
    quantized = Quantization(bits, "channel", symmetric, scale).decompose(weight)
    scales = scale_of_each(quantized).abs()
    assert scales[2].max() <= max(2.0**-24, 6 * float(weight[2].abs().max()))
    if not mse and (bits > 1 or not symmetric):
        # The next scale of float16 is 2^-24 away, where the formula's is rounded up.
        assert ((weight - quantized.to_dense()).abs() <= scales / 2 * (1 + 1e-12)).all()


def test_a_small_scale_that_matters_is_still_refused():
    weight = random(4, 40)
    weight[1] *= 1e-8
    Quantization(4).decompose(weight)
    with pytest.raises(ValueError, match="1 of 4 scales, .*, are too near 0 for the smallest"):
        Quantization(4).decompose(weight * 1e-4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 9}, r"bits=9 does not exist: give an integer in 1\.\.8"),
        ({"bits": 0}, "bits=0 does not exist"),
        ({"bits": 4, "group_size": 0}, "group_size=0 does not exist"),
        ({"bits": 4, "group_size": "row"}, "group_size='row' does not exist"),
        ({"bits": 4, "scale": "max"}, r"scale='max' must be one of \('range', 'mse'\)"),
        ({"bits": 4, "scale_dtype": "float8"}, r"scale_dtype='float8' must be one of \('float16'"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=text):
        Quantization(**options)


def importance(columns, seed=0, dead=0.2):
    """Mean squares of inputs over two decades, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    values = 10 ** (2 * torch.rand(columns, generator=generator, dtype=torch.float64))
    return values * (torch.rand(columns, generator=generator) > dead)


@given(
    shape=shapes,
    bits=bits,
    group_size=group_sizes,
    symmetric=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_in_the_diagonal_norm_weighted_scales_are_never_worse_than_others(
    shape, bits, group_size, symmetric, seed
):
    weight = random(*shape, seed=seed, dtype=torch.float64)
    columns = importance(shape[1], seed)
    columns[0] = 1.0
    norm = Diagonal(columns, rows=importance(shape[0], seed + 1, dead=0.0))
    weighted = Quantization(bits, group_size, symmetric, "mse")
    found = norm(weight - weighted.decompose(weight, norm).to_dense())
    for scale in ("range", "mse"):
        plain = Quantization(bits, group_size, symmetric, scale).decompose(weight)
        assert found <= norm(weight - plain.to_dense()) * (1 + 1e-12)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weighted_scales_are_the_best_of_a_fine_search(bits):
    weight, columns = random(1, 300, dtype=torch.float64), importance(300)
    norm = Diagonal(columns)
    method = Quantization(bits, scale="mse", scale_dtype="float32")
    found = norm(weight - method.decompose(weight, norm).to_dense())
    steps = weight.abs().max() * torch.linspace(0.001, 2.5, 20000, dtype=torch.float64)
    steps = torch.cat([steps, -steps])
    codes = (weight.T / steps + 2 ** (bits - 1)).round().clamp(0, 2**bits - 1)
    errors = ((codes - 2 ** (bits - 1)) * steps - weight.T).square() * columns[:, None]
    assert found <= 1.01 * float(errors.sum(dim=0).min()) ** 0.5
    assert found < norm(weight - method.decompose(weight).to_dense())


def test_weights_that_count_alone_are_fitted_alone():
    """One input of each group is ever seen, so that its weight comes out exact."""
    weight, columns = random(5, 12, dtype=torch.float64), torch.zeros(12)
    columns[::4] = 1.0
    method = Quantization(3, 4, scale="mse", scale_dtype="float32")
    result = method.decompose(weight, Diagonal(columns)).to_dense()
    assert torch.allclose(result[:, ::4], weight[:, ::4], rtol=1e-6)


@pytest.mark.parametrize("scale", ["range", "mse"])
def test_even_weights_are_no_weights(scale):
    weight = random(6, 40)
    method = Quantization(3, 8, scale=scale)
    even = method.decompose(weight, Diagonal(torch.full((40,), 4.0)))
    assert torch.equal(even.to_dense(), method.decompose(weight).to_dense())
    assert even.notes == ()


def test_a_range_that_the_norm_does_not_change_is_noted():
    weight, norm = random(6, 40), Diagonal(importance(40))
    found = Quantization(3, 8).decompose(weight, norm)
    assert torch.equal(found.to_dense(), Quantization(3, 8).decompose(weight).to_dense())
    assert found.notes == ("scale='range' is the same in every norm",)
    assert Quantization(3, 8, scale="mse").decompose(weight, norm).notes == ()
    assert Quantization(3, 8).decompose(weight).notes == ()


def test_the_full_norm_is_left_to_methods_that_compensate():
    norm = Full(torch.ones(4, 4))
    with pytest.raises(ValueError, match="Quantization cannot approximate in the norm Full"):
        Quantization(4).decompose(random(3, 4), norm)
