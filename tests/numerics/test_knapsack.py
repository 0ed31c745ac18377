"""The choice of one option for each item: against enumeration, and its bound against both."""

import itertools

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank.numerics.knapsack import Items, choose, undominated


@st.composite
def problems(draw):
    """Small problems, with ties and zeros, and a limit that can be met."""
    count = draw(st.integers(1, 5))
    sizes = [draw(st.integers(1, 5)) for _ in range(count)]
    costs = [draw(st.lists(st.integers(0, 20), min_size=n, max_size=n)) for n in sizes]
    tenths = st.integers(0, 30).map(lambda value: value / 10)
    losses = [draw(st.lists(tenths, min_size=n, max_size=n)) for n in sizes]
    smallest = sum(map(min, costs))
    limit = smallest + draw(st.integers(0, 40))
    return items(costs, losses), limit


def items(costs, losses):
    return Items(
        [f"layer{index}" for index in range(len(costs))],
        [np.array(values, dtype=np.int64) for values in costs],
        [np.array(values, dtype=np.float64) for values in losses],
    )


def best_by_enumeration(problem, limit):
    totals = []
    for picks in itertools.product(*(range(len(costs)) for costs in problem.costs)):
        if sum(c[p] for c, p in zip(problem.costs, picks, strict=True)) <= limit:
            totals.append(sum(x[p] for x, p in zip(problem.losses, picks, strict=True)))
    return min(totals)


@given(problems())
@settings(max_examples=150)
def test_the_exact_choice_is_that_of_enumeration(given_problem):
    problem, limit = given_problem
    choice = choose(problem, limit)
    best = best_by_enumeration(problem, limit)
    assert choice.cost <= limit
    assert choice.loss == pytest.approx(best, abs=1e-9)
    assert choice.bound <= best + 1e-9


@given(problems())
@settings(max_examples=200)
def test_the_greedy_choice_keeps_the_limit_and_brackets_the_optimum(given_problem):
    problem, limit = given_problem
    choice = choose(problem, limit, exact_options=0)
    best = best_by_enumeration(problem, limit)
    assert choice.solver == "greedy"
    assert choice.cost <= limit
    assert choice.bound - 1e-9 <= best <= choice.loss + 1e-9
    # It falls short by less than the largest step of a single item.
    largest = max(float(losses.max() - losses.min()) for losses in problem.losses)
    assert choice.loss - choice.bound <= largest + 1e-9


def test_cost_and_loss_are_those_of_the_picks():
    problem = items([[5, 3, 1], [8, 2]], [[0.0, 0.5, 4.0], [0.0, 1.0]])
    choice = choose(problem, 7)
    assert choice.picks == [0, 1]
    assert (choice.cost, choice.loss) == (7, 1.0)


def test_the_optimum_that_no_walk_along_hulls_finds():
    # One exchange in the middle of the hull must be given up for another to fit.
    problem = items([[0, 6, 7], [0, 6]], [[10.0, 4.0, 3.9], [10.0, 4.1]])
    choice = choose(problem, 12)
    assert choice.picks == [1, 1]
    assert choice.bound == pytest.approx(choice.loss)


def test_a_larger_budget_never_loses_more():
    generator = np.random.default_rng(0)
    costs = [generator.integers(1, 1000, 12) for _ in range(30)]
    losses = [generator.random(12) for _ in range(30)]
    problem = items(costs, losses)
    smallest = sum(int(c.min()) for c in problem.costs)
    found = [choose(problem, smallest * factor).loss for factor in (1, 1.5, 2, 3, 5, 9)]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(found))


def test_many_options_are_chosen_greedily_within_a_thousandth_of_the_bound():
    generator = np.random.default_rng(1)
    costs = [generator.integers(1, 10**6, 40) for _ in range(400)]
    losses = [1e4 / c * generator.uniform(0.5, 2, 40) for c in costs]
    problem = items(costs, losses)
    choice = choose(problem, 0.2 * sum(int(c.max()) for c in problem.costs), exact_options=10)
    assert choice.solver == "greedy"
    assert choice.loss - choice.bound <= 1e-3 * choice.bound


def test_only_options_that_none_beats_are_kept():
    costs, losses = np.array([4, 2, 2, 9, 5]), np.array([1.0, 3.0, 2.0, 0.0, 1.0])
    assert undominated(costs, losses).tolist() == [2, 0, 3]


def test_a_limit_below_the_smallest_says_what_the_smallest_is():
    with pytest.raises(ValueError, match="limit 9 is out of reach: the smallest.* cost 10"):
        choose(items([[5, 7], [5]], [[1.0, 0.0], [0.0]]), 9)


@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf])
def test_a_loss_that_cannot_be_is_refused_with_its_layer(bad):
    with pytest.raises(ValueError, match="layer 'layer1': a candidate's loss is"):
        items([[1], [1, 2]], [[0.0], [0.0, bad]])


def test_nothing_to_choose_from():
    with pytest.raises(ValueError, match="no layer has a candidate"):
        items([], [])
    with pytest.raises(ValueError, match="layer 'layer0' has 0 costs"):
        items([[]], [[]])


def test_a_choice_that_ran_out_of_time_says_so(monkeypatch):
    solve = scipy.optimize.milp

    def out_of_time(*args, **settings):
        found = solve(*args, **settings)
        found.status = 1
        return found

    problem = items([[1, 2, 4], [1, 3, 5]], [[9.0, 5.0, 0.0], [9.0, 4.0, 1.0]])
    assert choose(problem, 6).solver == "exact"
    monkeypatch.setattr(scipy.optimize, "milp", out_of_time)
    assert choose(problem, 6).solver == "stopped"
