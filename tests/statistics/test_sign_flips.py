"""The test by flipped signs has the tail of all sums."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from lowrank.statistics import sign_flips as module
from lowrank.statistics.sign_flips import FEW, sign_flips


def drawn(seed, n):
    """Differences of a long tail, most of them of one sign."""
    generator = np.random.default_rng([seed, n])
    return generator.gamma(0.7, size=n) * generator.choice([-1, 1, 1, 1], n)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [2, 7, 12])
def test_of_few_differences_it_is_scipys_permutation_test(seed, n):
    differences = drawn(seed, n)
    exact = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert sign_flips(differences) == pytest.approx(exact)


@given(st.integers(0, 60), st.integers(0, 60))
def test_of_right_and_wrong_answers_of_one_network_it_is_mcnemars(first, second):
    expected = mcnemar([[7, first], [second, 5]], exact=True).pvalue
    differences = np.repeat([1, -1, 0], [first, second, 12]) / 65
    assert sign_flips(differences) == pytest.approx(min(1.0, expected), rel=1e-9)


def test_a_false_alarm_of_mcnemar_is_never_more_likely_than_it_says():
    """Summed over all outcomes, not simulated."""
    for apart in range(1, 40):
        p = [sign_flips(np.repeat([1, -1], [one, apart - one])) for one in range(apart + 1)]
        chances = stats.binom.pmf(range(apart + 1), apart, 0.5)
        for alpha in (0.001, 0.01, 0.05, 0.2):
            assert chances[np.array(p) <= alpha].sum() <= alpha + 1e-12


@pytest.mark.parametrize("differing", [3, 4, 5, 6])
def test_few_sequences_of_various_lengths_that_all_speak_for_one(differing):
    """Perplexities of sequences of 20 to 59 predictions: p is 0.25, 0.125, 0.0625 and 0.031."""
    generator = np.random.default_rng(differing)
    weights = generator.integers(20, 60, 40).astype(float)
    apart = np.zeros(40)
    apart[:differing] = generator.gamma(2.0, size=differing)
    own = weights * apart / weights.sum()
    assert sign_flips(own) == pytest.approx(2.0 ** (1 - differing))
    # One sequence that speaks for the other is as far out only if it is the least of them.
    own[np.argmin(np.where(own > 0, own, np.inf))] *= -1
    assert sign_flips(own) == pytest.approx(2.0 ** (2 - differing))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_of_several_networks_it_counts_all_sums(steps):
    sums = [
        abs(sum(sign * step for sign, step in zip(signs, steps, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(steps))
    ]
    expected = np.mean([one >= abs(sum(steps)) for one in sums])
    assert sign_flips(np.array(steps) / 3 / 360) == pytest.approx(expected)


@pytest.mark.parametrize("n", [13, 30])
def test_all_sums_are_counted_from_two_halves(n):
    """The share of single draws of signs, which scipy's test draws too, within its own error."""
    differences = drawn(1, n)
    expected = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=50_000, rng=0
    ).pvalue
    error = np.sqrt(expected * (1 - expected) / 50_000)
    assert sign_flips(differences) == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("law", ["normal", "cauchy", "one sign more"])
def test_the_approximation_meets_what_is_counted(law, monkeypatch):
    generator = np.random.default_rng(0)
    for n in generator.integers(FEW + 1, FEW + 4, 30):
        differences = {
            "normal": generator.normal(0.3, 1, n),
            "cauchy": generator.standard_cauchy(n),
            "one sign more": np.abs(generator.standard_cauchy(n)) * generator.choice([-1, 1, 1], n),
        }[law]
        approximate = sign_flips(differences)
        with monkeypatch.context() as patch:
            patch.setattr(module, "FEW", n)
            exact = sign_flips(differences)
        assert approximate == pytest.approx(exact, rel=0.02 if law == "normal" else 0.1)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3, 0.6])
def test_of_many_differences_it_is_students_t(shift):
    differences = np.random.default_rng(0).normal(shift, 1, 400)
    expected = stats.ttest_1samp(differences, 0).pvalue
    assert sign_flips(differences) == pytest.approx(expected, rel=0.06)


@given(st.integers(0, 99), st.sampled_from([5, 40]), st.floats(1e-9, 1e9))
def test_neither_scale_nor_sign_nor_examples_alike_change_it(seed, n, scale):
    differences = drawn(seed, n)
    expected = sign_flips(differences)
    assert 0 < expected <= 1
    changed = np.r_[np.zeros(7), -scale * differences]
    assert sign_flips(changed) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("m", [1, 2, 4, 10, 40])
def test_of_differences_of_one_sign_there_is_one_sum_of_all(m):
    assert sign_flips(np.r_[np.full(m, 0.3), np.zeros(5)]) == pytest.approx(2.0 ** (1 - m))
    various = sign_flips(np.linspace(1, 1.7, m) ** 3)
    assert various == pytest.approx(2.0 ** (1 - m))


def test_without_differences_nothing_is_told():
    assert sign_flips(np.zeros(3)) == sign_flips(np.array([1.0, -1.0])) == 1
    assert sign_flips(np.array([])) == 1


def test_far_out_it_has_digits_left():
    right = np.repeat([1.0, -1.0], [900, 100])
    assert sign_flips(right) == pytest.approx(2 * stats.binom.cdf(100, 1000, 0.5), rel=1e-6)
    assert 0 < sign_flips(np.random.default_rng(0).normal(1, 1, 500)) < 1e-60
