"""Standard errors and intervals agree with scipy and statsmodels, and hold what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from lowrank.statistics.means import (
    are_shares,
    error_of,
    influence_on_metric,
    influences,
    interval,
    interval_of_share,
    metric_of,
    standard_error,
    weighted_means,
)

numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=40)


def jackknife(statistic, *arrays):
    """The standard error from leaving out one example after the other (Efron & Tibshirani 1993)."""
    count = len(arrays[0])
    left = np.array([statistic(*(np.delete(a, i) for a in arrays)) for i in range(count)])
    return np.sqrt((count - 1) / count * np.square(left - left.mean()).sum())


def drawn(n=40, columns=1, seed=0):
    generator = np.random.default_rng(seed)
    return generator.gamma(2.0, size=(n, columns)), generator.integers(1, 9, (n, 1)).astype(float)


def test_the_error_of_a_plain_mean_is_that_of_scipy():
    values, _ = drawn()
    ones = np.ones((40, 1))
    assert standard_error(values, ones) == pytest.approx(stats.sem(values[:, 0]), rel=1e-12)
    assert weighted_means(values, ones) == pytest.approx(values.mean())


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
    assert found != pytest.approx(stats.sem(values * weights / weights.mean()), rel=0.05)


def test_exp_of_a_mean_agrees_with_the_jackknife():
    random = np.random.default_rng(1)
    values, weights = random.gamma(2.0, size=2000), np.ones(2000)
    found = standard_error(values, weights, "exp")
    exp_of_mean = lambda v: np.exp(v.mean())  # noqa: E731
    assert found == pytest.approx(jackknife(exp_of_mean, values), rel=0.01)


def test_a_weighted_mean_is_that_of_statsmodels():
    values, weights = drawn(columns=3)
    described = DescrStatsW(values, weights[:, 0])
    assert weighted_means(values, weights) == pytest.approx(described.mean, rel=1e-12)


@given(st.integers(0, 99), st.sampled_from(["mean", "exp"]), st.integers(1, 3))
def test_an_influence_is_the_slope_of_the_metric_by_the_weight_of_an_example(seed, kind, columns):
    """By central differences, so that means, slopes of exp and columns are all in it."""
    values, weights = drawn(12, columns, seed)
    metric = np.exp if kind == "exp" else np.asarray
    slopes = []
    for index in range(12):
        ends = []
        for factor in (1 + 1e-6, 1 - 1e-6):
            other = weights.copy()
            other[index] *= factor
            ends.append(metric(weighted_means(values, other)).mean())
        slopes.append((ends[0] - ends[1]) / 2e-6)
    expected = np.sqrt(12 / 11 * np.square(slopes).sum())
    assert standard_error(values, weights, kind) == pytest.approx(expected, rel=1e-6)
    assert influences(values, weights).sum(axis=0) == pytest.approx(0, abs=1e-12)


def test_columns_of_one_network_repeated_have_the_error_of_one():
    """An example is one draw, however many networks saw it."""
    values, weights = drawn()
    one = standard_error(values, weights)
    assert standard_error(np.repeat(values, 3, axis=1), weights) == pytest.approx(one)
    independent, _ = drawn(4000, columns=3, seed=1)
    alone = standard_error(independent[:, :1], np.ones((4000, 1)))
    together = standard_error(independent, np.ones((4000, 1)))
    assert together == pytest.approx(alone / np.sqrt(3), rel=0.05)


@given(st.integers(0, 99))
def test_the_error_of_a_change_is_that_of_paired_differences(seed):
    (first, _), (second, _) = drawn(seed=seed), drawn(seed=seed + 100)
    ones = np.ones(40)
    change = influence_on_metric(second, ones) - influence_on_metric(first, ones)
    assert error_of(change) == pytest.approx(stats.sem(second[:, 0] - first[:, 0]), rel=1e-9)


def test_a_metric_of_several_networks_is_the_mean_of_theirs():
    values, weights = drawn(columns=3)
    means = np.average(values, axis=0, weights=weights[:, 0])
    assert metric_of(values, weights) == pytest.approx(means.mean())
    assert metric_of(values, weights, "exp") == pytest.approx(np.exp(means).mean())


def test_the_interval_of_a_mean_is_that_of_students_t():
    values = drawn()[0][:, 0]
    error = standard_error(values, np.ones(40))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values.mean(), error, 40) == pytest.approx(tuple(expected), rel=1e-12)


def test_the_interval_of_a_perplexity_is_that_of_its_logarithm():
    losses = drawn()[0][:, 0]
    error = standard_error(losses, np.ones(40), "exp")
    below = interval(losses.mean(), standard_error(losses, np.ones(40)), 40)
    found = interval(np.exp(losses.mean()), error, 40, "exp")
    assert found == pytest.approx(np.exp(below), rel=1e-12)


@pytest.mark.parametrize("right", [0, 1, 7, 38, 40])
def test_the_interval_of_a_share_is_wilsons(right):
    values = (np.arange(40) < right).astype(float)
    # The sample variance divides by n − 1, Wilson's by n.
    error = standard_error(values, np.ones(40)) * np.sqrt(39 / 40)
    expected = proportion_confint(right, 40, method="wilson")
    assert interval_of_share(right / 40, error, 40) == pytest.approx(expected, abs=1e-12)


def test_examples_of_hardly_any_weight_leave_a_share_of_one_with_an_interval():
    """Three count 1e21 times as much as the others, and their share is 1 with an error above 0."""
    values, weights = (np.arange(20) < 10).astype(float), np.where(np.arange(20) < 3, 1e12, 1e-9)
    share, error = np.average(values, weights=weights), standard_error(values, weights)
    assert share == 1.0 and error > 0
    assert interval_of_share(share, error, 20) == interval_of_share(1.0, 0.0, 20)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_rate_above_one_is_no_share(value):
    with pytest.raises(ValueError, match="must lie within 0 and 1"):
        interval_of_share(value, 0.1, 40)
    assert not are_shares(np.array([[0.5], [value]])) and are_shares(np.array([[0.0], [1.0]]))


def test_one_example_says_nothing_of_others():
    assert np.isnan(standard_error(np.ones((1, 2)), np.ones((1, 1))))
    assert np.isnan(interval(0.5, float("nan"), 1)).all()
    # One without weight is none.
    assert np.isnan(standard_error(np.arange(2.0), np.array([1.0, 0.0])))
    low, high = interval_of_share(1.0, float("nan"), 1)
    assert 0 < low < 0.3 and high == 1


@pytest.mark.parametrize("kind", ["mean", "exp", "share"])
def test_intervals_cover_as_often_as_they_say(kind):
    """The number that cover is binomial; a right interval leaves these ends once in 10,000 runs."""
    generator, runs, n, covered = np.random.default_rng(0), 2000, 60, 0
    for _ in range(runs):
        if kind == "share":
            values, truth = (generator.random(n) < 0.9).astype(float), 0.9
            low, high = interval_of_share(values.mean(), standard_error(values, np.ones(n)), n)
        else:
            values, truth = generator.normal(1.0, 0.5, n), {"mean": 1.0, "exp": np.e}[kind]
            mean = values.mean() if kind == "mean" else np.exp(values.mean())
            low, high = interval(mean, standard_error(values, np.ones(n), kind), n, kind)
        covered += low <= truth <= high
    # Wilson's interval of a discrete share covers between 0.935 and 0.965 here (summed exactly).
    rates = (0.935, 0.965) if kind == "share" else (0.95, 0.95)
    assert stats.binom.ppf(5e-5, runs, rates[0]) <= covered
    assert covered <= stats.binom.ppf(1 - 5e-5, runs, rates[1])
