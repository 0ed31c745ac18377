import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random, tensor_bytes
from torch import nn

from lowrank.compression.compress import check, compress
from lowrank.decomposers import GPTQ, EntropyCodedQuantization, MagnitudePruning
from lowrank.decomposers.decomposer import Unfit
from lowrank.factorizations import EntropyCoded
from lowrank.factorizations.entropy_coded import least_bytes
from lowrank.norms import IDENTITY, Diagonal, Full


def correlated(columns, samples, seed=0):
    mixed = random(samples, columns, seed=seed) @ random(columns, columns, seed=seed + 1)
    return mixed.T @ mixed / samples


@settings(max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 60)),
    bits=st.sampled_from([0.7, 1.5, 3.0, 8.0]),
    norm=st.sampled_from(["identity", "diagonal", "full"]),
    seed=st.integers(0, 1000),
)
def test_it_never_takes_more_than_its_bits(shape, bits, norm, seed):
    rows, columns = shape
    weight = random(*shape, seed=seed)
    norms = {
        "identity": IDENTITY,
        "diagonal": Diagonal(random(columns, seed=seed).square(), random(rows).square()),
        "full": Full(correlated(columns, 30, seed), damping=0.01),
    }
    budget = bits * weight.numel() / 8
    method = EntropyCodedQuantization(bits)
    if budget < 16 + rows + columns:
        return  # What may be stored besides the codes: numbers, a state, and exponents.
    found = method.decompose(weight, norms[norm])
    assert tensor_bytes(found) <= budget
    assert norms[norm](weight - found.to_dense()) <= norms[norm](weight)


@pytest.mark.parametrize("bits", [0.5, 1.0, 2.0, 3.3, 5.0, 8.0])
def test_normal_numbers_come_within_a_quarter_of_a_bit_of_what_is_possible(bits):
    weight = random(256, 256)
    found = EntropyCodedQuantization(bits).decompose(weight)
    stored = 8 * tensor_bytes(found) / weight.numel()
    assert bits - 0.02 <= stored <= bits
    error = float((weight - found.to_dense()).norm() / weight.norm())
    # Shannon: no code has an error below 2^-bits. Evenly spaced levels and entropy codes take
    # log2(2πe/12)/2 = 0.254 bits more than that; what is stored besides codes 0.02.
    assert 2**-stored < error < 2 ** -(stored - 0.28)


def test_in_the_full_norm_the_error_is_that_of_its_determinant():
    """Compensation makes of the strengths of the inputs their geometric mean, less correlation."""
    inputs = random(900, 60) @ (torch.eye(60) + 0.1 * random(60, 60, seed=1))
    weight, moment = random(400, 60), inputs.T @ inputs / 900
    norm = Full(moment)
    found = EntropyCodedQuantization(5.0).decompose(weight, norm)
    stored = 8 * tensor_bytes(found) / weight.numel()
    squared = norm(weight - found.to_dense()) ** 2 / weight.numel()
    determinant = math.exp(float(torch.linalg.slogdet(moment)[1]) / 60)
    bound = determinant * 4**-stored
    assert bound < squared < bound * 4**0.33
    assert determinant < 0.7 * float(moment.diagonal().mean())


@pytest.mark.parametrize(("bits", "size"), [(2, 32), (3, 64), (4, 64)])
def test_about_half_the_squared_error_of_codes_of_one_width_at_the_same_bytes(bits, size):
    weight, norm = random(64, 128, dtype=torch.float32), Full(correlated(128, 1000), damping=0.01)
    other = GPTQ(bits, size, symmetric=False, sweeps=2).decompose(weight, norm)
    stored = 8 * tensor_bytes(other) / weight.numel()
    found = EntropyCodedQuantization(stored).decompose(weight, norm)
    assert tensor_bytes(found) <= tensor_bytes(other)
    errors = [norm(weight - form.to_dense()) ** 2 for form in (found, other)]
    assert errors[0] < 0.6 * errors[1]


def test_rows_that_count_more_have_finer_steps():
    rows = 4.0 ** (torch.arange(50) % 4)
    weight = random(50, 100)
    norm = Full(correlated(100, 400), rows, damping=0.01)
    plain = EntropyCodedQuantization(3.0).decompose(weight, Full(norm.moment))
    found = EntropyCodedQuantization(3.0).decompose(weight, norm)
    errors = [(weight - found.to_dense())[torch.arange(50) % 4 == k].norm() for k in range(4)]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 1.5 < coarse / fine < 2.5
    assert norm(weight - found.to_dense()) < 0.8 * norm(weight - plain.to_dense())


def test_a_zero_weight_is_stored_without_error():
    found = EntropyCodedQuantization(2.0).decompose(torch.zeros(20, 30))
    assert not found.to_dense().any()


@pytest.mark.parametrize("value", [1 / 9, -0.3, 7.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(40, 30), (1, 60), (60, 1)])
def test_a_constant_weight_is_one_number(value, dtype, shape):
    weight = torch.full(shape, value, dtype=dtype)
    found = EntropyCodedQuantization(4.0).decompose(weight)
    torch.testing.assert_close(found.to_dense(), weight, rtol=1e-7, atol=0)
    assert len(found.codes.unique()) == 1 and tensor_bytes(found) < 0.7 * weight.numel() / 8 + 20


def few_valued(values, shares, shape=(60, 80)):
    generator = torch.Generator().manual_seed(0)
    places = torch.multinomial(
        torch.tensor(shares).float(), shape[0] * shape[1], True, generator=generator
    )
    return 0.02 * torch.tensor(values).double()[places].view(shape)


@pytest.mark.parametrize(
    ("values", "shares", "bits"),
    [
        ([-1, 0, 1], [0.1, 0.8, 0.1], 1.2),
        ([-1, 0, 1], [1, 1, 1], 1.8),
        ([-2, -1, 0, 1, 2], [1.0, 4, 6, 4, 1], 2.3),
        ([3, 4, 5], [1, 2, 1], 1.9),
        ([-1, 1], [19, 1], 0.8),
        ([-1, 1], [1, 1], 1.1),
        ([-0.3, 0.7], [2, 1], 1.2),
    ],
)
@pytest.mark.parametrize("norm", ["identity", "diagonal", "full"])
def test_few_values_come_back_without_error_where_their_entropy_fits(values, shares, bits, norm):
    weight = few_valued(values, shares)
    columns = random(80).square() + 0.1
    norms = {"identity": IDENTITY, "diagonal": Diagonal(columns), "full": Full(correlated(80, 300))}
    found = EntropyCodedQuantization(bits).decompose(weight, norms[norm])
    assert tensor_bytes(found) <= bits * weight.numel() / 8
    torch.testing.assert_close(found.to_dense(), weight, rtol=1e-6, atol=0)


def test_weights_of_one_sign_are_coded_from_their_mean():
    weight = 1 + 0.01 * random(64, 64)
    found = EntropyCodedQuantization(2.0).decompose(weight)
    assert isinstance(found, EntropyCoded) and found.centre > 10
    # As if the mean were known: the error of normal numbers at that rate, see above.
    assert float((weight - found.to_dense()).norm() / (0.01 * 64)) < 2**-1.6
    about = EntropyCodedQuantization(2.0).decompose(weight - 1)
    assert about.centre == 0


SCALES = {
    torch.float16: [1.2e4, 6e-5, 6e-8],
    torch.bfloat16: [8e37, 1e-38, 1e-40],
    torch.float32: [8e37, 1e-38, 1e-43],
    torch.float64: [1e160, 4e307, 1e-160, 1e-300, 5e-322],
}


@pytest.mark.parametrize(
    ("dtype", "scale"), [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales]
)
@pytest.mark.parametrize("bits", [1.5, 4.5])
def test_weights_of_any_size_are_coded_as_those_of_usual_size_are(dtype, scale, bits):
    """Up to the digits that the smallest numbers of a dtype have lost."""
    weight = (random(20, 30).clamp(-4, 4) * scale).to(dtype)
    usual = weight.double() / weight.double().abs().max()
    found = EntropyCodedQuantization(bits).decompose(weight)
    assert bool(found.to_dense().isfinite().all())
    ratio = found.to_dense().detach().double() / weight.double().abs().max()
    error = float((ratio - usual).detach().norm() / usual.norm())
    wanted = EntropyCodedQuantization(bits).decompose(usual).to_dense().detach()
    assert error < 1.05 * float((wanted - usual).norm() / usual.norm()) + 0.03


def test_levels_beyond_the_range_of_the_dtype_are_not_taken():
    weight = (random(12, 16).clamp(-1, 1) * 6.5e4).half()
    for bits in (1.5, 2, 3):
        dense = EntropyCodedQuantization(bits).decompose(weight).to_dense().detach()
        error = float((dense.double() - weight.double()).norm() / weight.double().norm())
        assert bool(dense.isfinite().all()) and error < 2 ** -(bits - 1)


def test_the_step_is_that_of_least_squares_where_levels_are_few():
    """Of three levels at ±c and noise, c is what matters; codes would be the same for many."""
    weight = random(60, 80).sign() * (random(60, 80, seed=1) > 0.5) + 0.01 * random(60, 80, seed=2)
    found = EntropyCodedQuantization(1.6).decompose(weight)
    assert float((weight - found.to_dense()).norm() / weight.norm()) < 0.03


def test_a_singular_moment_is_raised_and_the_report_says_so():
    x = random(12)
    found = EntropyCodedQuantization(4.0).decompose(random(30, 12), Full(torch.outer(x, x)))
    assert "singular second moment: its diagonal raised by 1e-" in " ".join(found.notes)


def test_codes_that_no_law_reaches_leave_bits_over_and_the_report_says_so():
    """One column makes up for all others, so that nearly all bits belong into its few codes."""
    x = random(6)
    weight, norm = random(30, 6), Full(torch.outer(x, x), damping=1e-9)
    found = EntropyCodedQuantization(6.0).decompose(weight, norm)
    assert found.notes == ("codes end at 4096: bits are left over",)
    assert int(found.codes.abs().max()) <= 2**12
    assert norm.relative_error(weight, found.to_dense()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_of_any_dtype(dtype):
    weight = random(20, 30, dtype=dtype)
    found = EntropyCodedQuantization(4.0).decompose(weight)
    wanted = EntropyCodedQuantization(4.0).decompose(weight.double())
    assert found.to_dense().dtype == dtype
    assert torch.equal(found.codes, wanted.codes)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"bits": 0}, r"bits=0 must lie in \(0, 8\]"),
        ({"bits": 8.5}, r"bits=8.5 must lie in \(0, 8\]"),
        ({"bits": "4"}, "bits='4' must be a number"),
        ({"bits": 4, "sweeps": -1}, "sweeps=-1 must be at least 0 and an integer"),
    ],
)
def test_bad_options(fields, text):
    with pytest.raises(ValueError, match=text):
        EntropyCodedQuantization(**fields)


def test_too_few_bits_for_anything():
    with pytest.raises(
        Unfit, match="2 bytes are too few for 100 weights.*give bits=1.28"
    ) as caught:
        EntropyCodedQuantization(0.2).decompose(random(10, 10))
    nearest = caught.value.nearest
    assert nearest == EntropyCodedQuantization(1.28)
    assert tensor_bytes(nearest.decompose(random(10, 10))) <= 16
    with pytest.raises(Unfit, match="leave this layer out") as caught:
        EntropyCodedQuantization(8).check_shape(torch.empty(3, 5))
    assert caught.value.nearest is None


@pytest.mark.parametrize("shape", [(1, 16), (10, 10), (64, 64), (45, 46), (1, 2049)])
@pytest.mark.parametrize("norm", ["identity", "uneven"])
def test_the_least_bits_are_known_by_the_shape(shape, norm):
    """Whatever the norm: where its steps have exponents, that may be too many bytes for them."""
    with pytest.raises(Unfit) as caught:
        EntropyCodedQuantization(1e-9).check_shape(torch.empty(shape, device="meta"))
    least = caught.value.nearest
    least.check_shape(torch.empty(shape))
    with pytest.raises(Unfit):
        EntropyCodedQuantization(least.bits * 0.99).check_shape(torch.empty(shape))
    rows, columns = (4.0 ** torch.arange(n).fmod(4) for n in shape)
    found = least.decompose(
        random(*shape), IDENTITY if norm == "identity" else Diagonal(columns, rows)
    )
    assert tensor_bytes(found) <= least_bytes(shape[0] * shape[1])


@pytest.mark.parametrize("bits", [0.3, 0.6, 0.98])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize(
    ("values", "shares"),
    [
        ([-1, 1], [1, 1]),
        ([-1, 0, 1], [1, 1, 1]),
        ([-2, -1, 0, 1, 2], [1] * 5),
        ([0.9, 1.1], [1, 1]),
    ],
)
def test_of_few_values_as_many_keep_their_codes_as_fit(values, shares, noise, bits):
    """One code for each value at most: so many of the entries come back, or those that count."""
    weight = few_valued(values, shares, (64, 64)) / 0.02
    weight += noise * weight.std() * random(64, 64)
    found = EntropyCodedQuantization(bits).decompose(weight)
    assert 0.9 * bits < 8 * tensor_bytes(found) / weight.numel() <= bits
    about = weight - (weight.mean() if min(values) > 0 else 0)
    codes = 2 * math.ceil(max(abs(v) for v in values)) + 1 if min(values) < 0 else 3
    share = 0.75 * (bits - 0.15) / math.log2(codes)
    assert float((weight - found.to_dense()).square().sum()) < (1 - share) * float(
        about.square().sum()
    )


def test_of_rows_that_matter_most_the_codes_are_kept():
    weight = random(64, 64).sign() * torch.where(torch.arange(64) < 20, 1.0, 0.3)[:, None]
    found = EntropyCodedQuantization(0.6).decompose(weight).to_dense()
    torch.testing.assert_close(found[:20], weight[:20], rtol=0.1, atol=0)


def test_bytes_that_find_no_use_are_said():
    weight, norm = 1 + 0.1 * random(64, 64).sign(), Full(correlated(64, 300))
    found = EntropyCodedQuantization(0.5).decompose(weight, norm)
    assert 2 * tensor_bytes(found) < 256
    assert found.notes == (
        f"takes {tensor_bytes(found)} of 256 bytes: no codes were found that use more",
    )


@pytest.mark.parametrize("norm", ["identity", "diagonal", "full"])
def test_a_few_weights_among_zeros_keep_every_digit(norm):
    """Also where all of them are in one row, which a sample would miss."""
    weight = torch.zeros(300, 40, dtype=torch.float32)
    weight[7] = random(40).float()
    norms = {"identity": IDENTITY, "diagonal": Diagonal(torch.arange(1.0, 41))}
    norms["full"] = Full(correlated(40, 300))
    found = EntropyCodedQuantization(0.6).decompose(weight, norms[norm])
    assert torch.equal(found.to_dense(), weight) and tensor_bytes(found) <= 0.6 * weight.numel() / 8
    assert "instead of an entropy code" in " ".join(found.notes)


@pytest.mark.parametrize("share", [0.002, 0.01, 0.05, 1.0])
@pytest.mark.parametrize("bits", [0.3, 1.0, 2.0])
def test_never_farther_than_pruning_at_the_same_bytes(share, bits):
    weight = random(64, 96, dtype=torch.float32) * (random(64, 96, seed=1).erf().abs() < share)
    pruned = MagnitudePruning(compression_ratio=32 / bits).decompose(weight)
    found = EntropyCodedQuantization(bits).decompose(weight)
    assert (weight - found.to_dense()).norm() <= (weight - pruned.to_dense()).norm()


def test_what_the_shape_decides_is_found_before_any_calibration():
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 400, bias=False))
    with pytest.raises(ValueError, match="layer '0': bits=0.05: 0 bytes are too few"):
        check(model[:1], EntropyCodedQuantization(0.05))
    with pytest.raises(ValueError, match="layer '0': bits=0.2: 2 bytes are too few"):
        check(model, EntropyCodedQuantization(0.2), strict=True)
    layers = compress(model, EntropyCodedQuantization(0.2)).layers
    assert "EntropyCodedQuantization(bits=1.28, sweeps=2)" in " ".join(layers[0].notes)
