"""Corrections and numbers of examples agree with scipy and statsmodels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from lowrank.statistics.hypotheses import (
    below_the_best,
    examples_needed,
    examples_needed_by,
    fewest_examples,
    holm,
)
from lowrank.statistics.sign_flips import sign_flips


@pytest.mark.parametrize("tests", [1, 2, 5, 40, 400])
def test_holm_is_that_of_statsmodels(tests):
    # With ties, and small enough for some to stay below 1.
    p = np.random.default_rng(tests).integers(0, 30, tests) / 30 * 5 / tests
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-12)


def test_tests_that_were_not_made_do_not_count():
    found = holm(np.array([np.nan, 0.01, np.nan, 0.02]))
    assert found[[1, 3]] == pytest.approx([0.02, 0.02]) and np.isnan(found[[0, 2]]).all()
    assert holm(np.array([])).shape == (0,)


@given(st.floats(0.01, 1), st.floats(0.1, 3), st.floats(0.001, 0.1), st.floats(0.3, 0.95))
def test_the_number_of_examples_gives_the_power_that_statsmodels_says(size, spread, alpha, power):
    n = examples_needed(100, size, spread / 10, alpha=alpha, power=power)
    # Its test of one sample: none of a second one.
    found = NormalIndPower(ddof=0).power(size / spread, n, alpha, ratio=0)
    # It adds the other tail, a difference told with the wrong sign.
    assert power - 1e-9 <= found <= power + alpha / 2


def test_no_number_of_examples_tells_nothing_or_what_networks_hide():
    assert examples_needed(100, 0.0, 0.1) == math.inf
    assert examples_needed(100, 0.1, 0.1, between=0.05) == math.inf
    alone = examples_needed(100, 0.3, 0.1)
    assert alone < examples_needed(100, 0.3, 0.1, between=0.05) < math.inf


@given(st.floats(1e-9, 0.5))
def test_the_fewest_examples_are_those_whose_signs_alone_can_tell(alpha):
    n = fewest_examples(alpha)
    assert sign_flips(np.ones(n)) <= alpha * (1 + 1e-9) < sign_flips(np.ones(n - 1)) * (1 + 1e-8)


@given(st.floats(0.06, 0.9), st.integers(10, 10_000))
def test_examples_needed_by_a_p_value_are_those_of_the_normal_test(p, n):
    """The z of a two-sided normal test gives p, and a difference of z errors is what it saw."""
    z = stats.norm.isf(p / 2)
    found = examples_needed_by(n, p)
    assert found == pytest.approx(examples_needed(n, z, 1.0)) and found > n


def one_sided(values):
    """That column j is no better than column i, by the paired t test of scipy."""
    apart = values[:, None, :] - values[:, :, None]
    with np.errstate(invalid="ignore"):
        p = 1 - special.stdtr(len(values) - 1, apart.mean(axis=0) / stats.sem(apart))
    rows, columns = 0, values.shape[1] - 1
    expected = stats.ttest_rel(values[:, columns], values[:, rows], alternative="greater").pvalue
    assert p[rows, columns] == pytest.approx(expected)
    return p


@pytest.mark.parametrize(("best", "others"), [(4, 0), (12, 0), (3, 5)])
def test_what_is_truly_best_is_seldom_called_worse(best, others):
    """By chance or not, one of them is ahead of the rest of them in each sample."""
    generator, runs, wrong, naive = np.random.default_rng(best), 150, 0, 0
    for _ in range(runs):
        values = generator.normal(size=(40, 1)) + generator.normal(size=(40, best + others))
        values[:, best:] -= 0.5
        p = one_sided(values)
        wrong += bool((below_the_best(p)[:best] < 0.05).any())
        ahead = int(values.mean(axis=0).argmax())
        naive += bool((holm(2 * p[:, ahead])[:best] < 0.05).any())
    # Ends that the count of a right test leaves once in 10,000 runs.
    assert wrong <= stats.binom.ppf(1 - 1e-4, runs, 0.05)
    if best == 12:  # The comparison with the best of the sample alone does not hold this.
        assert naive > stats.binom.ppf(1 - 1e-4, runs, 0.05)


def test_what_is_worse_than_the_best_is_told():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(200, 6)) - np.array([0, 0.1, 0.8, 0.9, 1.0, 1.1])
    assert (below_the_best(one_sided(values)) < 0.05).tolist() == [False, False, *[True] * 4]


def test_what_was_compared_with_nothing_is_not_tested():
    nan = np.nan
    p = below_the_best(np.array([[nan, 0.99, nan], [0.01, nan, nan], [nan, nan, nan]]))
    assert p[:2] == pytest.approx([0.99, 0.02]) and np.isnan(p[2])
    assert np.isnan(below_the_best(np.array([[nan]]))).all()
