"""An entropy code is never farther from a weight than plain quantization at the same bytes."""

import pytest
import torch
from made_tensors import random, tensor_bytes

from lowrank.approximation.rivals import CodebookRival, group_within, least_error, rivals
from lowrank.decomposers import CodebookQuantization, EntropyCodedQuantization, Quantization
from lowrank.factorizations import Codebook, EntropyCoded, Quantized
from lowrank.norms import IDENTITY, Diagonal, Full

OUT, INNER = 24, 32


def uniform(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


NORMAL, OTHER = random(OUT, INNER), random(OUT, INNER, seed=1)
PLACE = (torch.arange(OUT)[:, None] == 5) & (torch.arange(INNER) == 7)
WEIGHTS = {
    "normal": NORMAL,
    "Laplace": NORMAL.sign() * -uniform(OUT, INNER).log(),
    "uniform": 2 * uniform(OUT, INNER) - 1,
    "heavy tails": NORMAL / OTHER.abs().clamp_min(0.01),
    "±1": NORMAL.sign(),
    "±1 in rows of different size": NORMAL.sign() * 10 ** random(OUT, 1),
    "ternary": NORMAL.round().clamp(-1, 1),
    "two values": torch.where(NORMAL > 1, 0.7, -0.3),
    "three values": torch.tensor([-1.1, 0.3, 0.77]).double()[(3 * uniform(OUT, INNER)).long()],
    "constant": torch.full((OUT, INNER), 1 / 9, dtype=torch.float64),
    "constant and noise": 1 + 0.01 * NORMAL,
    "negative": -1 + 0.1 * NORMAL,
    "one outlier": torch.where(PLACE, 1e3, NORMAL),
    "sparse": NORMAL * (OTHER > 1.3),
    "two narrow peaks": NORMAL.sign() + 0.02 * OTHER,
    "groups of different size": NORMAL * (10 ** random(OUT, INNER // 8)).repeat_interleave(8, 1),
    "one row": torch.where(torch.arange(OUT)[:, None] == 3, NORMAL, 0.0),
}

INPUTS = random(200, INNER) @ (torch.eye(INNER) + 0.2 * random(INNER, INNER))
NORMS = {
    "identity": IDENTITY,
    "diagonal": Diagonal(INPUTS.square().mean(dim=0) ** 2, random(OUT).abs() + 0.1),
    "full": Full(INPUTS.T @ INPUTS / 200, damping=0.01),
}
PLAIN = [
    Quantization(1),
    Quantization(3, 8, symmetric=False, scale="mse"),
    Quantization(4, "tensor", symmetric=False),
    CodebookQuantization(2),
    CodebookQuantization(5),
]


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_it_is_never_farther_at_the_same_bytes(weight, norm):
    for place, method in enumerate(PLAIN):
        given = weight.to([torch.float32, torch.bfloat16, torch.float64][place % 3])
        plain = method.decompose(given)
        bits = 8 * tensor_bytes(plain) / weight.numel()
        if bits > 8:
            continue
        found = EntropyCodedQuantization(bits).decompose(given, norm)
        assert tensor_bytes(found) <= tensor_bytes(plain)
        errors = [norm(given.double() - f.to_dense().detach().double()) for f in (found, plain)]
        # Where both are exact, up to the digits of a scale in float16.
        assert errors[0] <= errors[1] * 1.001 + 2.0**-12 * norm(given.double()), (method, found)


def test_of_a_large_matrix_some_rows_decide_what_is_tried():
    peaks = random(400, 64).sign() + 0.02 * random(400, 64, seed=1)
    found = EntropyCodedQuantization(4.5).decompose(peaks)
    plain = CodebookQuantization(4).decompose(peaks)
    assert isinstance(found, Codebook) and torch.equal(found.to_dense(), plain.to_dense())
    assert "instead of an entropy code: EntropyCoded 64→400, 4." in " ".join(found.notes)
    assert "times its error" in " ".join(found.notes)


def test_what_has_no_chance_is_not_tried(monkeypatch):
    """A search over all of a matrix takes as long as half of an entropy code."""
    tried = []

    def made_of(rival, weight, counts):
        tried.append(len(weight))
        return made(rival, weight, counts)

    made = CodebookRival.made_of
    monkeypatch.setattr(CodebookRival, "made_of", made_of)
    found = EntropyCodedQuantization(4.0).decompose(random(400, 64))
    assert isinstance(found, EntropyCoded) and found.notes == ()
    assert max(tried) < 100


def test_scales_beyond_float16_are_those_of_bfloat16():
    signs = 1e9 * NORMAL.sign() * 10 ** random(OUT, 1)
    found = EntropyCodedQuantization(1.6).decompose(signs)
    assert isinstance(found, Quantized) and found.scale.dtype == torch.bfloat16
    assert float((found.to_dense() / signs - 1).abs().max()) < 2**-8


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2.0, 2.03, 2.3, 2.51, 3.2, 5.0])
def test_groups_are_the_smallest_that_fit(bits, symmetric):
    budget, shape = int(bits * OUT * INNER / 8), (OUT, INNER)

    def size_of(group_size):
        method = Quantization(2, group_size, symmetric)
        return tensor_bytes(method.decompose(NORMAL))

    fitting = [size for size in range(1, INNER + 1) if size_of(size) <= budget]
    wanted = min(fitting, default="tensor" if size_of("tensor") <= budget else None)
    assert group_within(shape, 2, symmetric, budget) == wanted


@pytest.mark.parametrize("budget", [300, 500, 771, 2000])
def test_every_rival_fits_and_has_as_many_bits_as_do(budget):
    found = rivals(NORMAL, budget)
    forms = [rival.made_of(NORMAL, torch.ones(1, 1).double()) for rival in found]
    assert all(tensor_bytes(form) <= budget for form in forms)
    assert {type(form) for form in forms} == {Quantized, Codebook}
    longest = max(form.layout.bits for form in forms)
    assert tensor_bytes(Quantization(longest, "tensor").decompose(NORMAL)) <= budget
    larger = min(longest + 1, 8)
    one_more = Quantization(larger, "tensor").decompose(NORMAL)
    assert larger == longest or tensor_bytes(one_more) > budget


@pytest.mark.parametrize("levels", [32, 64])
def test_the_error_of_many_levels_is_about_that_of_the_best_ones(levels):
    for values in (random(4000), 2 * uniform(4000)):
        best = CodebookQuantization(levels.bit_length() - 1).decompose(values[None])
        error = float((best.to_dense().detach() - values).square().sum())
        assert 0.6 < least_error(values, levels) / error < 1.1
    assert least_error(values.round(), levels) == 0
