"""Student's t against scipy, and degrees of freedom against Welch's test."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lowrank.statistics.student import MANY, half_width, p_value, satterthwaite

variances = st.floats(1e-3, 1e3)
numbers = st.integers(1, 50)


@given(st.floats(-5, 5), variances, numbers)
def test_interval_and_p_value_are_those_of_scipy(value, error, degrees):
    law = stats.t(degrees, scale=error)
    assert half_width(error, degrees) == pytest.approx(law.ppf(0.975))
    assert p_value(value, error, degrees) == pytest.approx(2 * law.sf(abs(value)))


def test_the_degrees_of_two_samples_are_those_of_welch():
    drawn = np.random.default_rng(0)
    one, other = drawn.normal(0, 1, 5), drawn.normal(0, 3, 12)
    parts = [(sample.var(ddof=1) / len(sample), len(sample) - 1) for sample in (one, other)]
    welch = stats.ttest_ind(one, other, equal_var=False)
    assert satterthwaite(*parts) == pytest.approx(welch.df)


@given(variances, numbers, st.floats(1e-200, 1e200))
def test_one_part_has_its_own_degrees_on_any_scale(variance, degrees, scale):
    assert satterthwaite((variance * scale, degrees), (0.0, 0)) == pytest.approx(degrees)


@given(variances, numbers, variances)
def test_a_part_that_is_known_adds_degrees(variance, degrees, known):
    assert degrees <= satterthwaite((variance, degrees), (known, math.inf)) <= MANY


def test_the_limits():
    assert satterthwaite((0.0, 3), (0.0, math.inf)) == 0
    assert satterthwaite((1.0, math.inf)) == MANY
    assert half_width(1.0, MANY) == pytest.approx(stats.norm.ppf(0.975), rel=1e-7)
