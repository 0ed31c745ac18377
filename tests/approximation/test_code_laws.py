import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import random, tensor_bytes

from lowrank.approximation.code_laws import assign, fit_law, fit_laws
from lowrank.factorizations import EntropyCoded
from lowrank.factorizations.laws import Exponents


def information(codes, law, spreads):
    """Bits of codes by the formula of the law, one code at a time."""
    total = 0.0
    for i, j in itertools.product(range(codes.shape[0]), range(codes.shape[1])):
        spread = 2 ** ((int(spreads.row[i]) + int(spreads.column[j])) / 2)

        def power(q, spread=spread):
            return law.linear * abs(q) / spread + law.square * (q / spread) ** 2

        weights = [math.exp(-power(q)) for q in range(-law.reach, law.reach + 1)]
        total += (power(int(codes[i, j])) + math.log(sum(weights))) / math.log(2)
    return total


@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 9),
    scale=st.sampled_from([0.0, 0.3, 3.0, 40.0]),
    uneven=st.sampled_from([0.0, 1.5]),
    seed=st.integers(0, 1000),
)
def test_the_bits_are_those_of_the_law_and_of_the_exponents(rows, columns, scale, uneven, seed):
    sides = random(rows, 1, seed=seed + 1), random(1, columns, seed=seed + 2)
    codes = scale * random(rows, columns, seed=seed) * torch.exp2(uneven * (sides[0] + sides[1]))
    law, spreads, bits = fit_law(codes.round())
    widths = [int(part.max()).bit_length() for part in (spreads.row, spreads.column)]
    stored = rows * widths[0] + columns * widths[1]
    # A window of exponents may be wider than what is taken of it.
    assert -1e-6 <= bits - stored - information(codes.round(), law, spreads) <= rows + columns
    assert int(spreads.row.min()) == int(spreads.column.min()) == 0


@pytest.mark.parametrize("scale", [0.4, 2.0, 30.0])
@pytest.mark.parametrize("kind", ["gauss", "laplace"])
def test_codes_take_hardly_more_than_their_entropy(kind, scale):
    numbers = random(300, 400)
    if kind == "laplace":
        numbers = numbers.sign() * (numbers.abs() / math.sqrt(2)).erf().neg().log1p().neg()
    codes = (scale * numbers).round()
    counts = codes.unique(return_counts=True)[1] / codes.numel()
    entropy = -float((counts * counts.log2()).sum())
    assert fit_law(codes)[2] / codes.numel() < entropy + 0.02


def test_rows_and_columns_that_spread_differently_are_told_apart():
    row, column = torch.arange(60) // 10, torch.arange(90) // 30
    codes = (3 * random(60, 90) * torch.exp2(row[:, None] / 2 + column)).round()
    _, spreads, bits = fit_law(codes)
    assert (spreads.row - row).abs().max() <= 1
    assert (spreads.column - 2 * column).abs().max() <= 1
    order = random(codes.numel(), seed=1).argsort()
    assert bits < 0.95 * fit_law(codes.flatten()[order].view(codes.shape))[2]


def test_laws_of_several_matrices_are_those_of_each():
    scales, uneven = torch.tensor([0.0, 0.3, 5.0, 80.0]), torch.exp2(random(1, 30, seed=1))
    codes = (scales[:, None, None] * random(4, 20, 30) * uneven).round()
    laws = fit_laws(codes.permute(2, 0, 1))
    for place, one in enumerate(codes):
        law, spreads, bits = fit_law(one)
        its, its_spreads = laws.of(place)
        assert (its.linear, its.square, its.reach) == (law.linear, law.square, law.reach)
        assert torch.equal(its_spreads.row, spreads.row)
        assert torch.equal(its_spreads.column, spreads.column)
        assert math.isclose(laws.bits[place], bits, rel_tol=1e-12, abs_tol=1e-9)


def test_codes_beyond_all_laws_spoil_no_others():
    codes = (3 * random(12, 3, 8)).round()
    codes[0, 1, 0], codes[0, 2, 0] = 1e9, torch.nan
    laws = fit_laws(codes)
    assert laws.largest[0] < 20 and laws.largest[1] == 1e9 and math.isnan(laws.largest[2])
    assert math.isclose(laws.bits[0], fit_law(codes[:, 0].T)[2], rel_tol=1e-12)


@given(items=st.integers(1, 6), options=st.integers(1, 9), seed=st.integers(0, 1000))
def test_assign_is_the_best_of_all_windows(items, options, seed):
    costs = 3 * random(items, options, seed=seed)
    (chosen,), (total,) = assign(costs[None])
    best = min(
        sum(min(row[start : start + 2**bits]) for row in costs.tolist()) + bits * items
        for bits in range(6)
        for start in range(options - 2**bits + 1)
    )
    assert math.isclose(float(total), best, abs_tol=1e-9)
    taken = float(costs.gather(1, chosen[:, None]).sum())
    window = int(chosen.max() - chosen.min())
    assert taken + items * window.bit_length() <= total + 1e-9


@pytest.mark.parametrize("scale", [0.2, 3.0, 100.0])
def test_the_bytes_are_the_bits(scale):
    codes = (scale * random(64, 100) * torch.exp2(random(64, 1, seed=1))).round()
    law, spreads, bits = fit_law(codes)
    none = Exponents(torch.zeros(64).long(), torch.zeros(100).long())
    form = EntropyCoded.of(codes.long(), (1.0, none), (law, spreads))
    stored = tensor_bytes(form)
    # 12 bytes of numbers and 6 of each of 4 streams; every code has a share of 2^-16.
    assert bits / 8 <= stored <= 1.01 * bits / 8 + 12 + 24
