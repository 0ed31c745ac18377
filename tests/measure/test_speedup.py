"""A speedup and its interval: against their definition, and against chance."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank.measure.speedup import Speedup, paired_speedup, surely_above

seconds = st.floats(1e-9, 1e3)
pairs = st.lists(st.tuples(seconds, seconds), min_size=1, max_size=60)


@given(pairs)
def test_it_lies_in_its_interval(times):
    found = paired_speedup([r for r, _ in times], [o for _, o in times])
    assert found.low <= found.median <= found.high
    assert found.median == statistics.median([r / o for r, o in times])


@given(pairs)
def test_what_is_faster_one_way_is_slower_the_other(times):
    reference, own = [r for r, _ in times], [o for _, o in times]
    there, back = paired_speedup(reference, own), paired_speedup(own, reference)
    # The median of an even number is a mean of two, and that of reciprocals another.
    assert back.low == pytest.approx(1 / there.high) and back.high == pytest.approx(1 / there.low)


def test_by_hand():
    # Of nine draws at most one lies below their median with a probability of 10 / 512.
    found = paired_speedup([3.0, 1, 4, 1, 5, 9, 2, 6, 5], [1.0] * 9)
    assert found == Speedup(4, 1, 6)
    assert (
        sorted([3.0, 1, 4, 1, 5, 9, 2, 6, 5])[1] == 1
        and sorted([3, 1, 4, 1, 5, 9, 2, 6, 5])[-2] == 6
    )


def test_a_load_on_both_of_a_pair_changes_nothing():
    load = [1.0, 7, 1, 3, 30, 2, 1]
    assert paired_speedup([2 * slow for slow in load], load) == Speedup(2, 2, 2)


def test_pairs_are_pairs():
    with pytest.raises(ValueError):
        paired_speedup([1.0, 2.0], [1.0])


def test_a_clock_that_did_not_move_gives_a_number():
    assert math.isfinite(paired_speedup([1e-6] * 5, [0.0] * 5).high)


@pytest.mark.parametrize("rounds", [5, 8, 20, 61])
def test_each_end_is_missed_as_rarely_as_it_says(rounds):
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(4000, rounds, generator=generator).exp()  # of median 1
    found = [paired_speedup(ratios, [1.0] * rounds) for ratios in draws.tolist()]
    # Four standard deviations of such a share are 0.014.
    assert sum(one.low > 1 for one in found) / len(found) <= 0.05 + 0.014
    assert sum(one.high < 1 for one in found) / len(found) <= 0.05 + 0.014
    # And no wider than it must be: with one place more they would be missed more often than said.
    inner = [sorted(ratios) for ratios in draws.tolist()]
    places = [ratios.index(one.low) for ratios, one in zip(inner, found, strict=True)]
    assert len(set(places)) == 1
    closer = sum(ratios[places[0] + 1] > 1 for ratios in inner) / len(inner)
    assert closer > 0.05


@pytest.mark.parametrize("count", [*range(5, 40), 100, 1000])
def test_the_place_is_that_of_fair_coins(count):
    place = int(surely_above(range(count)))
    ways = [math.comb(count, heads) for heads in range(count + 1)]
    assert 20 * sum(ways[: place + 1]) <= 2**count < 20 * sum(ways[: place + 2])


def test_of_few_or_many_values():
    assert surely_above([3.0]) == 3
    assert surely_above([1.0] * 5000) == 1  # 2^5000 is no float


def test_more_rounds_bring_the_interval_to_the_median():
    generator = torch.Generator().manual_seed(0)
    few, many = (torch.randn(n, generator=generator) * 0.05 + 1.1 for n in (9, 900))
    few, many = (paired_speedup(one.tolist(), [1.0] * len(one)) for one in (few, many))
    assert few.low < 1.1 - 0.01 and few.high > 1.1 + 0.01
    assert (many.low, many.high) == pytest.approx((1.1, 1.1), abs=0.01)
