"""A quantized base and a rounded product: the best iterate, and never worse than plain rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from torch import Tensor

from lowrank.approximation.comparison import error_of
from lowrank.decomposers import GPTQ, Quantization, QuantizedPlusLowRank
from lowrank.factorizations import Half, Product, Quantized, Sum
from lowrank.norms import IDENTITY, Diagonal, Full

OUT, INNER = 24, 32


def decaying(seed: int = 0) -> Tensor:
    """A few strong directions, and noise."""
    return 3 * random(OUT, 2, seed=seed) @ random(2, INNER, seed=seed) + random(OUT, INNER, seed=5)


def full() -> Full:
    inputs = random(INNER, 3 * INNER, seed=7) * torch.linspace(0.2, 2, INNER)[:, None]
    inputs = inputs + 2 * inputs.mean(dim=0)
    return Full(inputs @ inputs.T / (3 * INNER), torch.linspace(0.5, 2, OUT).double())


NORMS = {
    "identity": IDENTITY,
    "diagonal": Diagonal(full().moment.diagonal(), full().rows),
    "full": full(),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())


def test_one_iteration_is_the_base_and_the_svd_of_what_it_misses():
    """LoftQ, by hand: in the identity norm, with factors of nearly full precision."""
    weight = decaying()
    base = GPTQ(2, 8)
    method = QuantizedPlusLowRank(3, base, factor_bits=16, iterations=1)
    (form,) = method._alternate(weight, IDENTITY, torch.zeros_like(weight))
    by_hand = base.decompose(weight).to_dense()
    assert torch.equal(form.terms[0].to_dense(), by_hand)
    u, s, vh = torch.linalg.svd(weight - by_hand)
    best = u[:, :3] * s[:3] @ vh[:3]
    torch.testing.assert_close(form.terms[1].to_dense(), best, rtol=0, atol=4e-3)


@every_norm
@settings(max_examples=12)
@given(
    rank=st.integers(1, 6),
    bits=st.integers(1, 4),
    factor_bits=st.sampled_from([2, 3, 4, 8, 16]),
    group_size=st.sampled_from([5, 8, 16, "channel"]),
    seed=st.integers(0, 99),
    is_flat=st.booleans(),
)
def test_never_worse_than_plain_quantization_of_as_many_bytes(
    norm, rank, bits, factor_bits, group_size, seed, is_flat
):
    weight = random(OUT, INNER, seed=seed) if is_flat else decaying(seed)
    base = GPTQ(bits, group_size, symmetric=False)
    form = QuantizedPlusLowRank(rank, base, factor_bits, iterations=2).decompose(weight, norm)
    error = error_of(weight, norm, form)
    assert error <= error_of(weight, norm, base.decompose(weight, norm))
    plain = base.within(weight, norm, form.nbytes)
    assert error <= min(error_of(weight, norm, part) for part in plain)
    if isinstance(form, Quantized):
        assert "instead of a hybrid" in " ".join(form.notes)


@every_norm
def test_more_iterations_are_never_worse(norm):
    weight = decaying()
    errors = []
    for iterations in (1, 2, 4, 8):
        method = QuantizedPlusLowRank(2, GPTQ(2, 16), iterations=iterations)
        errors.append(error_of(weight, norm, method.decompose(weight, norm)))
    assert all(b <= a for a, b in zip(errors, errors[1:], strict=False))
    assert errors[-1] < errors[0]


@every_norm
def test_it_pays_where_the_spectrum_decays(norm):
    weight = decaying()
    form = QuantizedPlusLowRank(2, GPTQ(2, 16, symmetric=False)).decompose(weight, norm)
    assert isinstance(form, Sum)
    plain = GPTQ(2, 16, symmetric=False).within(weight, norm, form.nbytes)
    least = min(error_of(weight, norm, part) for part in plain)
    assert error_of(weight, norm, form) < 0.7 * least


def test_where_it_does_not_the_plain_quantization_comes_back():
    weight = random(OUT, INNER)
    form = QuantizedPlusLowRank(12, GPTQ(2, 16), factor_bits=8).decompose(weight, full())
    assert isinstance(form, Quantized)
    assert form.layout.bits > 2
    assert "instead of a hybrid: Sum(Quantized 32→24, 2 bits, group 16, Product(" in " ".join(
        form.notes
    )


def test_factors_rounded_in_the_norm_are_nearer_than_each_by_itself():
    weight, norm = decaying(), full()
    product = QuantizedPlusLowRank(4, GPTQ(2), factor_bits=4)._product(weight, norm)
    exact = QuantizedPlusLowRank(4, GPTQ(2), factor_bits=16)._product(weight, norm)
    left, right = (factor.to_dense() for factor in exact.factors)
    apart = Product(
        Quantization(4, "tensor", scale="mse").decompose(left),
        Quantization(4, "channel", scale="mse").decompose(right),
    )
    assert apart.nbytes == product.nbytes
    best = error_of(weight, norm, exact)
    assert best < error_of(weight, norm, product) < error_of(weight, norm, apart)


def test_what_is_stored():
    form = QuantizedPlusLowRank(2, GPTQ(3, 16)).decompose(decaying(), full())
    base, product = form.terms
    assert isinstance(base, Quantized) and isinstance(product, Product)
    left, right = (factor.layout for factor in product.factors)
    assert (left.shape, left.bits, left.count) == ((OUT, 2), 4, 1)
    assert (right.shape, right.bits, right.count) == ((2, INNER), 4, 2)
    half = QuantizedPlusLowRank(2, GPTQ(2), factor_bits=16).decompose(decaying(), full())
    assert all(isinstance(factor, Half) for factor in half.terms[1].factors)


def test_a_weight_that_the_base_has_exactly_needs_no_product():
    levels = torch.randint(-2, 2, (OUT, INNER), generator=torch.Generator().manual_seed(0))
    form = QuantizedPlusLowRank(2, GPTQ(2, 16)).decompose(0.5 * levels.double(), full())
    assert isinstance(form, Quantized)
    assert torch.equal(form.to_dense(), 0.5 * levels.double())


def test_a_zero_weight_is_that_of_the_base():
    form = QuantizedPlusLowRank(2, GPTQ(2)).decompose(torch.zeros(OUT, INNER), full())
    assert isinstance(form, Quantized) and not bool(form.to_dense().any())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rank": 0}, "rank=0 must be at least 1"),
        ({"base": Quantization(4)}, "must be a GPTQ, such as"),
        ({"factor_bits": 9}, r"factor_bits=9 must lie in 1..8, or be 16"),
        ({"factor_bits": True}, "factor_bits=True must lie in"),
        ({"iterations": 0}, "iterations=0 must be at least 1"),
    ],
)
def test_bad_hyperparameters_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        QuantizedPlusLowRank(**{"rank": 2, "base": GPTQ(3), **options})


def test_a_rank_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"rank=25 does not fit .*\(24, 32\).*1\.\.24"):
        QuantizedPlusLowRank(25, GPTQ(3)).decompose(decaying(), full())
