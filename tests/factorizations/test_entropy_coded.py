import copy
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import tensor_bytes

from lowrank.factorizations import EntropyCoded, rebuild
from lowrank.factorizations.laws import Exponents, Law


def exponents(rows, columns, largest, seed=0):
    generator = torch.Generator().manual_seed(seed)
    row, column = (torch.randint(largest + 1, (n,), generator=generator) for n in (rows, columns))
    return Exponents(row, column)


def example(rows=20, columns=30, largest=3, reach=9, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-reach, reach + 1, (rows, columns), generator=generator)
    steps, spreads = (exponents(rows, columns, largest, seed + k) for k in (1, 2))
    coding = Law(0.3, 0.1, reach), spreads
    return codes, (0.3, steps), coding, EntropyCoded.of(codes, (0.3, steps), coding, dtype)


@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 9),
    largest=st.sampled_from([0, 1, 5, 40]),
    reach=st.sampled_from([1, 3, 200]),
    seed=st.integers(0, 1000),
)
def test_it_stands_for_codes_times_steps(rows, columns, largest, reach, seed):
    codes, (step, steps), _, form = example(rows, columns, largest, reach, seed, torch.float64)
    assert torch.equal(form.codes, codes)
    dense = form.to_dense()
    for i in range(rows):
        for j in range(columns):
            factor = 2 ** ((int(steps.row[i]) + int(steps.column[j])) / 2)
            wanted = int(codes[i, j]) * float(torch.tensor(step)) * factor
            assert math.isclose(float(dense[i, j]), wanted, rel_tol=1e-12)


@given(
    linear=st.sampled_from([0.0, 0.5, 3.0]),
    square=st.sampled_from([0.0, 0.02, 1.0]),
    reach=st.sampled_from([1, 7, 60]),
    exponent=st.integers(0, 12),
)
def test_frequencies_are_those_of_the_law(linear, square, reach, exponent):
    if linear == square == 0:
        return
    law = Law(linear, square, reach)
    found = law.frequencies(range(exponent + 1))[exponent]
    q = torch.arange(-reach, reach + 1, dtype=torch.float64)
    spread = 2 ** (exponent / 2)
    wanted = (-law.linear * q.abs() / spread - law.square * (q / spread) ** 2).softmax(dim=0)
    assert int(found.sum()) == 2**16 and int(found.min()) >= 1
    # One of each is given to every code, and what rounding leaves to 0.
    assert (found / 2**16 - wanted).abs().max() <= (4 * reach + 3) / 2**16
    assert torch.equal(found, found.flip(0))


def test_frequencies_are_the_same_everywhere():
    """Numbers that are written down: were they to change, stored matrices would be lost."""
    found = Law(0.25, 0.125, 3).frequencies(range(4)).tolist()
    assert found[0] == [2941, 7055, 13181, 19182, 13181, 7055, 2941]
    assert found[3] == [7649, 9035, 10343, 11482, 10343, 9035, 7649]


def test_bytes_are_those_of_the_law():
    law, spreads = Law(0.0, 0.5, 12), Exponents(torch.arange(100) // 20, torch.zeros(200).long())
    table = law.frequencies(range(5))
    codes = torch.stack([torch.multinomial(table[int(k)].double(), 200, True) for k in spreads.row])
    none = Exponents(torch.zeros(100).long(), torch.zeros(200).long())
    form = EntropyCoded.of(codes - 12, (1.0, none), (law, spreads))
    shares = table.gather(1, torch.stack([codes[spreads.row == k].flatten() for k in range(5)]))
    information = float((16 - shares.double().log2()).sum()) / 8
    stored = {name: tensor.nbytes for name, tensor in form.state_dict().items()}
    assert stored["row_spread"] == 100 * 3 // 8 + 1 and stored["numbers"] == 12
    assert stored["row_step"] == stored["column_step"] == stored["column_spread"] == 0
    assert information <= stored["stream"] <= 1.001 * information + 6 * 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype_changes_what_it_stands_for_and_not_what_is_stored(dtype):
    codes, _, _, form = example()
    stored = {name: tensor.clone() for name, tensor in form.state_dict().items()}
    moved = copy.deepcopy(form).to(dtype)
    assert moved.to_dense().dtype == dtype
    assert all(torch.equal(moved.state_dict()[name], stored[name]) for name in stored)
    assert torch.equal(moved.codes, codes)
    back = rebuild(moved.config())
    back.load_state_dict(moved.state_dict())
    assert torch.equal(back.to_dense(), moved.to_dense())


@given(
    centre=st.sampled_from([-1000, -3, 0, 7, 10**6]),
    exponent=st.sampled_from([-1000, -140, -5, 0, 3, 140, 1000]),
    step=st.sampled_from([0.3, 1.0, 1e-3]),
    seed=st.integers(0, 100),
)
def test_it_stands_for_codes_about_any_centre_times_steps_of_any_size(centre, exponent, step, seed):
    codes, (_, steps), (law, spreads), _ = example(6, 5, largest=2, seed=seed)
    coding = Law(law.linear, law.square, law.reach, centre), spreads
    form = EntropyCoded.of(codes + centre, (step, steps), coding, torch.float64, exponent)
    assert torch.equal(form.codes, codes + centre)
    wanted = (codes + centre).double() * float(torch.tensor(step)) * steps.factors(torch.float64)
    back = rebuild(form.config())
    back.load_state_dict(form.state_dict())
    for found in (form, back):
        # In two halves, or the power alone would be beyond the range of float64.
        ratio = found.to_dense() * 2.0 ** -(exponent // 2) * 2.0 ** -(exponent - exponent // 2)
        torch.testing.assert_close(ratio, wanted, rtol=1e-12, atol=0)


def test_it_says_what_it_takes():
    form = example()[-1]
    stored = tensor_bytes(form)
    assert form.describe() == f"EntropyCoded 30→20, {8 * stored / 600:.2f} bits"


def test_what_does_not_fit():
    codes, levels, (law, spreads), _ = example()
    with pytest.raises(ValueError, match=r"exponents of lengths \[20, 30, 30, 20\] do not fit"):
        EntropyCoded.of(codes, levels, (law, Exponents(spreads.column, spreads.row)))
    with pytest.raises(ValueError, match="codes up to 90 from the centre need a law that"):
        EntropyCoded.of(codes * 10, levels, (law, spreads))


def test_a_damaged_stream_is_found_where_assertions_are_off():
    code = """
import torch
from lowrank.factorizations import EntropyCoded
from lowrank.factorizations.laws import Exponents, Law
none = Exponents(torch.zeros(8, dtype=torch.int64), torch.zeros(12, dtype=torch.int64))
codes = torch.arange(96).view(8, 12) % 9 - 4
form = EntropyCoded.of(codes, (0.5, none), (Law(0.5, 0.0, 8), none))
form.stream += 1
try:
    form.check_stored()
except ValueError as error:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr
