"""Influences by leaving out one example make the standard error of the jackknife."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank.statistics.jackknife import as_values, jackknife
from lowrank.statistics.means import error_of, influences, standard_error, weighted_means

numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=40).map(np.array)


def without(statistic, values):
    return np.array([statistic(np.delete(values, i)) for i in range(len(values))])


@given(numbers)
def test_of_a_mean_they_are_those_of_the_mean(values):
    found = jackknife(without(np.mean, values))
    known = influences(values[:, None], np.ones((len(values), 1)))[:, 0]
    np.testing.assert_allclose(found, known, atol=1e-9)


def test_the_error_of_a_ratio_is_the_jackknifes():
    generator = np.random.default_rng(0)
    errors, words = generator.integers(0, 5, 30), generator.integers(5, 12, 30)
    left = np.array([np.delete(errors, i).sum() / np.delete(words, i).sum() for i in range(30)])
    expected = np.sqrt(29 / 30 * np.square(left - left.mean()).sum())
    assert error_of(jackknife(left)) == pytest.approx(expected, rel=1e-12)


@given(numbers, st.integers(0, 9))
def test_values_have_the_metric_as_mean_and_the_influences(values, seed):
    influence = jackknife(without(np.mean, values))
    weights = np.random.default_rng(seed).integers(1, 9, len(values)).astype(float)
    outcomes = as_values(2.5, influence, weights)
    assert weighted_means(outcomes[:, None], weights[:, None])[0] == pytest.approx(2.5, abs=1e-9)
    assert standard_error(outcomes, weights) == pytest.approx(error_of(influence), abs=1e-9)


def test_an_example_without_weight_keeps_out():
    outcomes = as_values(1.0, np.array([0.1, -0.1, 0.0]), np.array([2.0, 1.0, 0.0]))
    assert np.isfinite(outcomes).all()
    assert outcomes[2] == 1.0
