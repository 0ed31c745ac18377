"""Resamples are drawn as they should be, and means under them are those of the drawn examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank.statistics import resampling
from lowrank.statistics.means import standard_error
from lowrank.statistics.resampling import counts, resample, resampled_means


def drawn(n=30, columns=4, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, columns)), generator.integers(0, 4, (n, columns)) + 0.5


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_a_resample_draws_as_many_examples_as_there_are(n, resamples, seed):
    found = counts(n, resamples, np.random.default_rng(seed))
    assert found.shape == (resamples, n)
    assert (found >= 0).all() and (found.sum(axis=1) == n).all()


def test_every_example_is_drawn_as_often_as_another():
    """A count is binomial (n, 1/n): its mean is 1, its variance 1 − 1/n."""
    found = counts(8, 50_000, np.random.default_rng(0))
    assert found.mean(axis=0) == pytest.approx(1, abs=5 * np.sqrt(0.875 / 50_000))
    # The fourth moment of Poisson's law bounds that of the binomial one.
    assert found.var(axis=0) == pytest.approx(0.875, abs=5 * np.sqrt(3 / 50_000))


def test_means_under_resamples_are_those_of_the_examples_drawn(monkeypatch):
    values, weights = drawn()
    found = resampled_means(values, weights, 50, seed=3)
    # In chunks of seven resamples, which draw the same.
    monkeypatch.setattr(resampling, "CHUNK", 7 * 30)
    assert resampled_means(values, weights, 50, seed=3) == pytest.approx(found, rel=1e-12)
    generator = np.random.default_rng(3)
    for row in found:
        picked = generator.integers(0, 30, 30)
        expected = np.average(values[picked], axis=0, weights=weights[picked])
        assert row == pytest.approx(expected, rel=1e-9)


def test_one_column_of_weights_serves_all():
    values, weights = drawn()
    one = resampled_means(values, weights[:, :1], 20)
    assert one == pytest.approx(resampled_means(values, np.repeat(weights[:, :1], 4, axis=1), 20))


def test_the_spread_of_resampled_means_is_the_standard_error():
    values, weights = drawn(400)
    found = resample(values, weights, 4000)
    for column in range(4):
        expected = standard_error(values[:, column], weights[:, column])
        # The error of a standard deviation of 4,000 numbers is 1.1 %.
        assert found.resampled[:, column].std() == pytest.approx(expected, rel=0.05)


def test_an_example_that_a_column_lacks_does_not_count():
    values, weights = drawn()
    weights[10:, 0] = 0
    values[10:, 0] = 1e9
    found = resample(values, weights, 100)
    assert np.abs(found.resampled[:, 0]).max() < 10 and (found.influence[10:, 0] == 0).all()


def test_a_column_of_which_nothing_was_drawn_keeps_its_mean():
    weights = np.array([[1.0, 1.0], [0.0, 1.0]])
    found = resampled_means(np.array([[5.0, 1.0], [0.0, 2.0]]), weights, 200)
    assert (found[:, 0] == 5).all() and set(found[:, 1]) == {1.0, 1.5, 2.0}
