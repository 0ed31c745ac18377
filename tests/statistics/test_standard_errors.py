import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from lowrank.statistics.means import standard_error

numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=40)


def jackknife(statistic, *arrays):
    """The standard error from leaving out one example after the other (Efron & Tibshirani 1993)."""
    count = len(arrays[0])
    left = np.array([statistic(*(np.delete(a, i) for a in arrays)) for i in range(count)])
    return math.sqrt((count - 1) / count * np.square(left - left.mean()).sum())


@given(numbers)
def test_with_equal_weights_it_is_scipys(values):
    values = np.array(values)
    found = standard_error(values, np.full(len(values), 3.0))
    assert found == pytest.approx(scipy.stats.sem(values), rel=1e-9, abs=1e-9)


@given(numbers, st.floats(0.01, 100))
def test_neither_the_scale_of_the_weights_nor_an_example_without_weight_counts(values, scale):
    values = np.array(values)
    weights = 1.0 + np.arange(len(values)) % 3
    found = standard_error(values, weights)
    assert standard_error(values, scale * weights) == pytest.approx(found, rel=1e-9, abs=1e-12)
    assert standard_error(np.append(values, 7.0), np.append(weights, 0.0)) == pytest.approx(
        found, abs=1e-12
    )


def test_a_weighted_mean_agrees_with_the_jackknife():
    random = np.random.default_rng(0)
    weights = random.integers(1, 9, 3000).astype(float)
    values = random.normal(size=3000) + weights / 4
    mean = lambda v, w: (w * v).sum() / w.sum()  # noqa: E731
    found = standard_error(values, weights)
    assert found == pytest.approx(jackknife(mean, values, weights), rel=0.01)
    # And is not that of a mean whose denominator is known.
    assert found != pytest.approx(scipy.stats.sem(values * weights / weights.mean()), rel=0.05)


def test_exp_of_a_mean_agrees_with_the_jackknife():
    random = np.random.default_rng(1)
    values, weights = random.gamma(2.0, size=2000), np.ones(2000)
    found = standard_error(values, weights, "exp")
    exp_of_mean = lambda v: math.exp(v.mean())  # noqa: E731
    assert found == pytest.approx(jackknife(exp_of_mean, values), rel=0.01)


def test_it_covers_the_mean_of_the_population_as_often_as_it_says():
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        right = (random.random(300) < 0.9).astype(float)
        covered += abs(right.mean() - 0.9) <= 1.96 * standard_error(right, np.ones(300))
    assert 0.91 < covered / 400 < 0.98


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0]])
def test_one_example_has_none(weights):
    assert math.isnan(standard_error(np.arange(len(weights), dtype=float), np.array(weights)))
