import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import random

from lowrank.approximation.code_laws import fit_laws
from lowrank.approximation.rate_distortion import NAT, Coding, Matrix, nearest, useful
from lowrank.norms import IDENTITY, Diagonal, Full


def correlated(columns, samples, seed=0):
    mixed = random(samples, columns, seed=seed) @ random(columns, columns, seed=seed + 1)
    return mixed.T @ mixed / samples


def cost(matrix, codes, step, coding):
    """Error and bits of codes (in, out) together, by their definitions."""
    missing = matrix.weight / step - codes
    error = sum(
        float(weight * row @ matrix.moment @ row)
        for weight, row in zip(matrix.rows, missing.T, strict=True)
    )
    law, spreads = coding.laws.of(0)
    spread, size = torch.exp2(spreads.total().T.double() / 2), codes.abs()
    nats = law.linear * size / spread + law.square * (size / spread) ** 2
    return error + NAT * float(nats.sum())


def some_coding(matrix, step):
    return Coding(fit_laws((matrix.weight / step).round()[:, None]), torch.zeros(1).double())


@given(
    number=st.floats(-30, 30),
    drawn=st.floats(0, 5),
    divided=st.floats(1, 4),
)
def test_nearest_is_the_best_of_all_integers(number, drawn, divided):
    def cost(q):
        return (number - q) ** 2 + 2 * drawn * abs(q) + (divided - 1) * q**2

    tensors = (torch.tensor([x], dtype=torch.float64) for x in (number, drawn, divided))
    found = float(nearest(*tensors))
    assert cost(found) <= min(cost(q) for q in range(-40, 41)) + 1e-9


@given(
    samples=st.sampled_from([3, 20, 200]),
    step=st.sampled_from([0.05, 0.5, 3.0]),
    rows=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_sweep_never_makes_error_and_bits_together_more(samples, step, rows, seed):
    weights = random(5, seed=seed).square() + 1e-3 if rows else None
    norm = Full(correlated(40, samples, seed), weights, damping=0.01)
    matrix = Matrix(random(5, 40, seed=seed), norm)
    coding = some_coding(matrix, step)
    codes = matrix.round([step], coding)
    before = cost(matrix, codes[:, 0], step, coding)
    for _ in range(3):
        matrix.sweep(codes, [step], coding)
        after = cost(matrix, codes[:, 0], step, coding)
        assert after <= before * (1 + 1e-9)
        before = after
    assert torch.equal(codes, codes.round())


def by_obs(weight, moment, order, step):
    """Optimal brain surgeon in its plain form: column after column taken out of the inverse."""
    current, result = weight.clone(), torch.zeros_like(weight)
    inverse, left = torch.linalg.inv(moment[order][:, order]), list(order)
    while left:
        j = left[0]
        result[:, j] = (current[:, j] / step).round()
        error = (current[:, j] - result[:, j] * step) / inverse[0, 0]
        for k, i in enumerate(left):
            current[:, i] -= error * inverse[0, k]
        inverse = inverse - torch.outer(inverse[:, 0], inverse[0]) / inverse[0, 0]
        inverse, left = inverse[1:, 1:], left[1:]
    return result


def test_without_a_price_it_is_optimal_brain_surgeon_in_the_steps_of_the_matrix():
    weight, moment = random(16, 70), correlated(70, 200)
    moment = moment * torch.outer(*[torch.linspace(1, 30, 70).double()] * 2)
    rows = torch.tensor([1.0, 1.1, 300.0, 0.9], dtype=torch.float64).repeat(4)
    matrix = Matrix(weight, Full(moment, rows))
    assert int(matrix.steps.row.max()) and int(matrix.steps.column.max())
    factors = matrix.steps.factors(torch.float64)
    assert torch.allclose(matrix.weight.T * factors, weight)
    column = torch.exp2(matrix.steps.column.double() / 2)
    order = moment.diagonal().argsort(descending=True).tolist()
    scaled = moment * torch.outer(column, column)
    wanted = by_obs(matrix.weight.T, scaled, order, 0.1)
    assert torch.equal(matrix.round([0.1], None)[:, 0].T, wanted)


@pytest.mark.parametrize("full", [False, True])
def test_several_steps_in_one_pass_are_as_each_alone(full):
    norm = Full(correlated(70, 200), damping=0.01) if full else Diagonal(torch.arange(70) + 1.0)
    matrix = Matrix(random(16, 70) * torch.exp2(2 * random(16, 1, seed=1)), norm)
    steps = [0.1, 0.4, 0.25]

    def chosen(steps):
        first = torch.stack([(matrix.weight / step).round() for step in steps], dim=1)
        coding = Coding(fit_laws(first), torch.zeros(len(steps)).double())
        codes = matrix.round(steps, coding)
        matrix.sweep(codes, steps, coding)
        return codes

    together = chosen(steps)
    for place, step in enumerate(steps):
        assert torch.equal(together[:, place], chosen([step])[:, 0])


@pytest.mark.parametrize("norm", [IDENTITY, Diagonal(torch.arange(12) + 1.0)])
def test_where_no_inputs_come_together_every_weight_is_rounded_by_itself(norm):
    matrix = Matrix(random(6, 12), norm)
    assert torch.equal(matrix.round([0.3], None)[:, 0], (matrix.weight / 0.3).round())


def test_errors_cost_the_same_in_every_row_and_column():
    """Up to the half octaves in which steps are stored: a factor of 2 ^ ±1/2 in squared error."""
    columns, rows = 10 ** random(50), 10 ** random(80, seed=1)
    matrix = Matrix(random(80, 50), Diagonal(columns, rows))
    for values in (matrix.rows, matrix.strength):
        assert float(values.max() / values.min()) <= 2 * (1 + 1e-9)


@given(lines=st.integers(1, 40), length=st.integers(1, 60), seed=st.integers(0, 1000))
def test_exponents_are_taken_only_where_they_save_more_than_they_take(lines, length, seed):
    importance = torch.exp2(random(lines, seed=seed) * (seed % 4))
    found = useful(importance, length)
    assert int(found.min()) == 0
    wanted = (importance.max().log2().round() - importance.log2().round()).long()
    # At high rates the error is that of the steps, and a step's half is a bit.
    plain = math.log2(float(importance.mean())) / 2
    error = float((importance * 2.0**wanted).mean())
    fine = math.log2(error) / 2 - float(wanted.double().mean()) / 2
    taken = lines * int(wanted.max()).bit_length()
    pays = lines * length * (plain - fine) > taken
    assert torch.equal(found, wanted if pays else torch.zeros_like(wanted))
