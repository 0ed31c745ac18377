"""The test by flipped signs has the tail of all sums."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lowrank.statistics import sign_flips as module
from lowrank.statistics.hypotheses import mcnemar
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
    pairs = np.repeat([[1, 0], [0, 1], [1, 1]], [first, second, 5], axis=0)
    expected = mcnemar(pairs[:, 0], pairs[:, 1])
    assert sign_flips((pairs[:, 0] - pairs[:, 1]) / 65) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_of_several_networks_it_counts_all_sums(steps):
    sums = [
        abs(sum(sign * step for sign, step in zip(signs, steps, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(steps))
    ]
    expected = np.mean([one >= abs(sum(steps)) for one in sums])
    assert sign_flips(np.array(steps) / 3 / 360) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(12))
def test_the_approximation_meets_what_is_counted(seed, monkeypatch):
    differences = drawn(seed, FEW + 1)
    approximate = sign_flips(differences)
    monkeypatch.setattr(module, "FEW", FEW + 1)
    assert abs(math.log(approximate / sign_flips(differences))) < math.log(1.6)


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
