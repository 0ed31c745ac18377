"""The parts of a variance over examples and seeds are those of a two-way analysis of variance."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.formula.api import ols

from lowrank.statistics.crossed import crossed_variance


def drawn(n=30, seeds=6, parts=(1.0, 0.3, 0.8), seed=0):
    generator = np.random.default_rng(seed)
    of_examples, of_seeds, of_both = parts
    examples, networks = generator.normal(size=(n, 1)), generator.normal(size=seeds)
    together = generator.normal(size=(n, seeds))
    return of_examples * examples + of_seeds * networks + of_both * together


def variance(values):
    means = values.mean(axis=0)
    return crossed_variance((values - means) / len(values), means)


def test_they_are_the_mean_squares_of_statsmodels():
    values = drawn()
    n, seeds = values.shape
    flat = pd.DataFrame(
        {
            "value": values.ravel(),
            "example": np.repeat(np.arange(n), seeds),
            "seed": np.tile(np.arange(seeds), n),
        }
    )
    table = sm.stats.anova_lm(ols("value ~ C(example) + C(seed)", flat).fit())
    squares = (table["sum_sq"] / table["df"]).to_numpy()
    found = variance(values)
    assert [found.examples, found.seeds, found.both] == pytest.approx(squares / values.size)
    assert found.total == pytest.approx((squares[0] + squares[1] - squares[2]) / values.size)


@pytest.mark.parametrize("parts", [(1, 0.3, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0.5, 0, 1)])
@pytest.mark.parametrize("seeds", [5, 10])
def test_the_variance_is_that_of_the_mean_over_draws(parts, seeds):
    n, runs = 40, 600
    truth = parts[0] ** 2 / n + parts[1] ** 2 / seeds + parts[2] ** 2 / (n * seeds)
    found = [variance(drawn(n, seeds, parts, seed)).total for seed in range(runs)]
    # The mean of `runs` variances of seeds − 1 degrees or more; what examples add is not below 0,
    # which adds at most 6 % where examples have no part of their own.
    spread = 4 * np.sqrt(2 / (seeds - 1) / runs)
    assert truth * (1 - spread) < np.mean(found) < truth * (1.06 + 2 * spread)


def test_only_examples_that_vary_leave_nothing_between_seeds():
    found = variance(np.repeat(drawn(seeds=1), 7, axis=1))
    assert found.seeds < 1e-30 and found.both < 1e-30 and found.between < 1e-30
    assert found.total == pytest.approx(found.examples)
    assert found.degrees(29) == pytest.approx(29)


def test_only_seeds_that_vary_have_the_error_of_their_mean():
    found = variance(drawn(parts=(0, 1, 0)))
    means = drawn(parts=(0, 1, 0)).mean(axis=0)
    assert found.total == pytest.approx(means.var(ddof=1) / 6)
    assert found.between == found.total and found.degrees(29) == pytest.approx(5)


def test_what_is_between_seeds_is_seen_half_the_time_where_there_is_nothing():
    """The estimate of 0 before it is cut off is as often below as above, but for its skewness:
    P(F(4, 116) > 1) = 0.41."""
    found = [variance(drawn(30, 5, (1, 0, 1), seed)).between > 0 for seed in range(400)]
    assert 0.31 < np.mean(found) < 0.51


def test_seeds_that_share_no_example_have_the_error_of_their_means():
    """Each seed has its own test split: what an example adds is in the means of the seeds."""
    generator = np.random.default_rng(0)
    influence, means = np.zeros((5000, 5)), generator.normal(size=5)
    for seed in range(5):
        rows = slice(1000 * seed, 1000 * (seed + 1))
        values = means[seed] + generator.normal(size=1000)
        influence[rows, seed] = (values - values.mean()) / 1000
        means[seed] = values.mean()
    assert crossed_variance(influence, means).total == pytest.approx(means.var(ddof=1) / 5)
