"""Budgets divided by marginal gains: the best choice where gains per cost fall."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank.numerics.marginal_gains import by_marginal_gain


def falling(most: int = 4) -> st.SearchStrategy[list[float]]:
    gains = st.lists(st.integers(1, 40).map(float), min_size=1, max_size=most)
    return gains.map(lambda own: sorted(own, reverse=True))


def gained(gains: list[list[float]], taken: tuple[int, ...] | list[int]) -> float:
    return sum(sum(own[:steps]) for own, steps in zip(gains, taken, strict=True))


def best(gains: list[list[float]], prices: list[int], budget: int) -> float:
    """By trying all."""
    every = itertools.product(*(range(len(own) + 1) for own in gains))
    return max(
        gained(gains, taken)
        for taken in every
        if sum(n * price for n, price in zip(taken, prices, strict=True)) <= budget
    )


def costs(gains: list[list[float]], prices: list[int]) -> list[list[int]]:
    return [[price] * len(own) for own, price in zip(gains, prices, strict=True)]


@settings(max_examples=150)
@given(st.lists(falling(), min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 40))
def test_with_equal_costs_no_choice_gains_more(gains, price, budget):
    prices = [price] * len(gains)
    taken = by_marginal_gain(gains, costs(gains, prices), budget)
    assert sum(taken) * price <= budget
    assert gained(gains, taken) == best(gains, prices, budget)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(falling(), st.integers(1, 6)), min_size=1, max_size=4), st.integers(0, 40)
)
def test_with_other_costs_it_misses_less_than_one_step(items, budget):
    gains, prices = [list(own) for own in zip(*items, strict=True)]
    taken = by_marginal_gain(gains, costs(gains, prices), budget)
    spent = sum(n * price for n, price in zip(taken, prices, strict=True))
    assert spent <= budget
    largest = max(max(own) for own in gains)
    assert gained(gains, taken) >= best(gains, prices, budget) - largest


@settings(max_examples=100)
@given(st.lists(st.tuples(falling(), st.integers(1, 6)), min_size=1, max_size=4), st.data())
def test_at_every_budget_that_a_threshold_uses_up_it_is_the_best(items, data):
    gains, prices = [list(own) for own in zip(*items, strict=True)]
    ratios = sorted({g / p for own, p in zip(gains, prices, strict=True) for g in own})
    threshold = data.draw(st.sampled_from(ratios))
    above = [sum(g / p >= threshold for g in own) for own, p in zip(gains, prices, strict=True)]
    budget = sum(n * price for n, price in zip(above, prices, strict=True))
    taken = by_marginal_gain(gains, costs(gains, prices), budget)
    assert taken == above and gained(gains, taken) == best(gains, prices, budget)


def test_least_comes_first_and_what_gains_nothing_is_not_taken():
    gains = [[1.0, 0.0, 0.0], [9.0, 8.0, 0.0]]
    assert by_marginal_gain(gains, [[1] * 3] * 2, 6) == [1, 2]
    assert by_marginal_gain(gains, [[1] * 3] * 2, 2) == [0, 2]
    assert by_marginal_gain(gains, [[1] * 3] * 2, 2, least=1) == [1, 1]
    with pytest.raises(ValueError, match="budget of 1 is out of reach: 1 steps of each of 2 items"):
        by_marginal_gain(gains, [[1] * 3] * 2, 1, least=1)
