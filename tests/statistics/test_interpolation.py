"""Curves are read at their points, between them on a logarithmic axis, and nowhere else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank.statistics.interpolation import common_sizes, is_same_size, shares

SIZES = st.lists(st.floats(0.1, 64), min_size=2, max_size=6, unique=True)


@given(SIZES, st.floats(0, 1))
def test_a_value_is_that_of_numpy_on_a_logarithmic_axis(sizes, place):
    sizes = np.array(sizes)
    at = float(np.exp(np.log(sizes.min()) * (1 - place) + np.log(sizes.max()) * place))
    values = np.random.default_rng(0).normal(size=len(sizes))
    found = shares(sizes, at)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()
    if not any(is_same_size(size, at) for size in sizes):
        order = np.argsort(sizes)
        expected = np.interp(np.log(at), np.log(sizes[order]), values[order])
        assert found @ values == pytest.approx(expected, abs=1e-9)


def test_a_point_of_that_size_is_taken_as_it_is():
    assert list(shares(np.array([8.0, 4.32, 3.0]), 4.33)) == [0, 1, 0]
    assert list(shares(np.array([4.0]), 4.02)) == [1]


@pytest.mark.parametrize("at", [2.9, 8.2])
def test_nothing_is_extrapolated(at):
    with pytest.raises(ValueError, match=f"size {at} lies outside the measured ones, 3 to 8"):
        shares(np.array([3.0, 8.0, 4.0]), at)


def test_curves_have_the_sizes_of_their_points_where_both_are():
    first, second = np.array([2.0, 4.0, 8.0]), np.array([3.0, 4.02, 9.0, 16.0])
    assert common_sizes(first, second) == [3, 4, 8]
    assert common_sizes(first, np.array([9.0, 12.0])) == []
    # One that is the same size as the last of the other is no extrapolation.
    assert common_sizes(first, np.array([8.05, 12.0])) == [8]


@given(SIZES, SIZES)
def test_common_sizes_can_be_read_on_both_curves(first, second):
    for at in common_sizes(np.array(first), np.array(second)):
        assert shares(np.array(first), at).sum() == pytest.approx(1)
        assert shares(np.array(second), at).sum() == pytest.approx(1)
