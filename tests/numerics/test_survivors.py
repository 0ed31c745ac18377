import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random

from lowrank.norms import Full
from lowrank.numerics import survivors
from lowrank.numerics.survivors import exact_update


@st.composite
def problems(draw):
    """A weight, a mask and a second moment: of any rank from 1, some inputs always zero."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    seed = draw(st.integers(0, 10_000))
    inputs = random(draw(st.integers(1, 30)), columns, seed=seed)
    inputs = inputs * 10.0 ** random(columns, seed=seed + 1)
    dead = draw(st.sets(st.integers(0, columns - 1), max_size=columns - 1))
    inputs[:, list(dead)] = 0
    weight = random(rows, columns, seed=seed + 2)
    kept = random(rows, columns, seed=seed + 3) > draw(st.floats(-2, 2))
    return weight, kept, inputs


@settings(max_examples=200)
@given(problems())
def test_every_row_is_its_least_squares(problem):
    weight, kept, inputs = problem
    moment = inputs.T @ inputs / len(inputs)
    updated = exact_update(weight, kept, moment)
    assert bool((updated[~kept] == 0).all())
    for row, mask, result in zip(weight, kept, updated, strict=True):
        outputs = inputs @ row
        solution = torch.linalg.lstsq(inputs[:, mask], outputs, driver="gelsd").solution
        best = (outputs - inputs[:, mask] @ solution).norm()
        error = (outputs - inputs @ result).norm()
        assert error <= best + 1e-6 * outputs.norm()
        assert (outputs - inputs @ (row * mask)).norm() >= error - 1e-12 * outputs.norm()


@given(st.integers(0, 1000))
def test_with_a_regular_moment_the_solution_is_the_one_there_is(seed):
    weight, root = random(5, 9, seed=seed), random(40, 9, seed=seed + 1)
    kept = random(5, 9, seed=seed + 2) > 0
    updated = exact_update(weight, kept, root.T @ root)
    for row, mask, result in zip(weight, kept, updated, strict=True):
        expected = torch.linalg.lstsq(root[:, mask], (root @ row)[:, None]).solution[:, 0]
        torch.testing.assert_close(result[mask], expected, rtol=1e-9, atol=1e-9)


def test_nothing_changes_where_nothing_can_make_up_or_need_be():
    weight = random(5, 8)
    kept = random(5, 8, seed=1) > 0
    moment = torch.diag(random(8, seed=2).square())
    assert torch.equal(exact_update(weight, kept, moment), weight * kept)
    inputs = random(20, 8, seed=3)
    full = torch.ones_like(kept)
    assert torch.equal(exact_update(weight, full, inputs.T @ inputs), weight)


def test_inputs_that_are_never_there_keep_their_weight():
    inputs = random(20, 8)
    inputs[:, 3] = 0
    weight, kept = random(4, 8, seed=1), torch.ones(4, 8, dtype=torch.bool)
    kept[:, 0] = False
    updated = exact_update(weight, kept, inputs.T @ inputs)
    assert torch.equal(updated[:, 3], weight[:, 3])
    assert not torch.equal(updated[:, 4], weight[:, 4])


def test_rows_are_solved_in_pieces_that_do_not_matter(monkeypatch):
    weight, kept, inputs = random(30, 10), random(30, 10, seed=1) > 0, random(20, 10, seed=2)
    whole = exact_update(weight, kept, inputs.T @ inputs)
    monkeypatch.setattr("lowrank.numerics.survivors.PIECE", 300)
    torch.testing.assert_close(exact_update(weight, kept, inputs.T @ inputs), whole)


def test_the_error_is_that_of_the_projection():
    """With one input kept of two, what is left is the part of the other that it cannot explain."""
    moment = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    weight = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    updated = exact_update(weight, torch.tensor([[True, False]]), moment)
    torch.testing.assert_close(updated, torch.tensor([[2.6, 0.0]], dtype=torch.float64))
    assert abs(Full(moment)(weight - updated) - (1 - 0.36) ** 0.5) < 1e-12


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_few_and_many_survivors_are_solved_alike(share, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 24, generator=generator, dtype=torch.float64)
    moment = x.T @ x / 200
    weight = torch.randn(9, 24, generator=generator, dtype=torch.float64)
    kept = torch.rand(9, 24, generator=generator) >= share
    by_zeros = survivors.exact_update(weight, kept, moment)
    monkeypatch.setattr(survivors, "regular_inverse", lambda moment: None)
    by_survivors = survivors.exact_update(weight, kept, moment)
    torch.testing.assert_close(by_zeros, by_survivors, rtol=1e-9, atol=1e-10)
