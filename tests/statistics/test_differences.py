"""The test of a difference raises as few false alarms as it says, and sees what it should."""

import numpy as np
import pytest
from scipy import stats

from lowrank.statistics.differences import LEAST_SEEDS, difference
from lowrank.statistics.hypotheses import examples_needed
from lowrank.statistics.interpolation import shares
from lowrank.statistics.resampling import counts, resample

ALPHA = 0.05
# Ends that the count of a right test leaves once in 10,000 runs.
TAIL = 5e-5


def between(values, seeds=1, resamples=400, average="mean", weights=None, run=0):
    """The difference of the first half of the columns and the second, a column per seed."""
    weights = np.ones((len(values), 1)) if weights is None else weights
    found = resample(values, weights, resamples, run)
    eye = np.eye(2 * seeds)
    return difference(found, eye[:, :seeds], eye[:, seeds:], average)


def alarms(make, runs, **settings):
    generator = np.random.default_rng(0)
    return sum(between(make(generator), run=run, **settings).p <= ALPHA for run in range(runs))


def normal(generator, n=150, shift=0.0):
    """Two models whose values go together, as those of two compressions of one network do."""
    alike = generator.normal(size=(n, 1))
    return alike + 0.5 * generator.normal(size=(n, 2)) + np.array([shift, 0.0])


def right_or_wrong(generator, n, apart, seeds=1):
    """Two models that differ on a share of the examples, each right as often as the other."""
    differ = generator.random((n, 1)) < apart
    first = np.where(differ, generator.random((n, seeds)) < 0.5, True)
    return np.hstack([first, np.where(differ, ~first, True)]).astype(float)


def test_false_alarms_are_as_many_as_it_says():
    runs = 400
    found = alarms(normal, runs)
    assert stats.binom.ppf(TAIL, runs, ALPHA) <= found <= stats.binom.ppf(1 - TAIL, runs, ALPHA)


@pytest.mark.parametrize("apart", [0.01, 0.03, 0.2])
@pytest.mark.parametrize("seeds", [1, 3])
def test_few_examples_on_which_models_differ_raise_no_false_alarms(apart, seeds):
    """1 to 40 of 200 examples: where the normal law alone would be too sure."""
    runs = 300
    found = alarms(lambda draw: right_or_wrong(draw, 200, apart, seeds), runs, seeds=seeds)
    assert found <= stats.binom.ppf(1 - TAIL, runs, ALPHA)


def test_perplexities_of_long_tails_raise_no_false_alarms():
    def make(draw):
        return 3 + draw.gamma(0.5, size=(60, 1)) * draw.gamma(1.0, size=(60, 2))

    found = alarms(make, 400, average="exp")
    assert found <= stats.binom.ppf(1 - TAIL, 400, ALPHA)


def seeded(generator, seeds, spread=0.3, shift=0.0, n=100):
    """Networks of other seeds differ by `spread` besides what examples do."""
    examples = generator.normal(size=(n, 2 * seeds))
    return examples + spread * generator.normal(size=2 * seeds) + np.repeat([shift, 0.0], seeds)


@pytest.mark.parametrize("seeds", [5, 8])
def test_a_claim_about_seeds_raises_as_few_false_alarms(seeds):
    runs = 300
    found = alarms(lambda draw: seeded(draw, seeds), runs, seeds=seeds)
    assert found <= stats.binom.ppf(1 - TAIL, runs, ALPHA)
    # Seeds that vary must be felt: the same with seeds fixed finds "differences" of luck.
    generator = np.random.default_rng(0)
    fixed = sum(
        stats.ttest_1samp(np.subtract(*np.hsplit(seeded(generator, seeds), 2)).mean(1), 0).pvalue
        <= ALPHA
        for _ in range(runs)
    )
    assert fixed > 2 * stats.binom.ppf(1 - TAIL, runs, ALPHA)


def test_below_five_seeds_the_networks_are_fixed():
    values = seeded(np.random.default_rng(0), LEAST_SEEDS - 1)
    found = between(values, LEAST_SEEDS - 1)
    assert not found.over_seeds and found.between == 0
    more = between(seeded(np.random.default_rng(0), LEAST_SEEDS), LEAST_SEEDS)
    assert more.over_seeds and 0 < more.between < more.error


def test_where_only_seeds_vary_it_is_the_t_test_of_their_means():
    apart = np.random.default_rng(0).normal(0.5, size=6)
    values = np.hstack([np.tile(apart, (50, 1)), np.zeros((50, 6))])
    found, expected = between(values, 6), stats.ttest_1samp(apart, 0)
    assert found.error == pytest.approx(stats.sem(apart)) and found.between == found.error
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.p == pytest.approx(expected.pvalue)


def test_seeds_that_differ_alike_on_every_example_are_told_by_the_examples():
    found = between(np.hstack([np.ones((20, 5)), np.zeros((20, 5))]), 5)
    assert found.p == pytest.approx(2 * stats.t.sf(np.sqrt(20), 19)) and found.error == 0


@pytest.mark.parametrize("n", [16, 50, 512, 1000])
def test_seeds_of_the_same_mean_by_other_examples_are_judged_by_the_examples(n):
    """Five seeds that each differ on one example of their own: all one way, or each both ways."""
    seeds = 5
    one_way = np.ones((n, 2 * seeds))
    one_way[range(seeds), range(seeds, 2 * seeds)] = 0
    found = between(one_way, seeds)
    own = np.where(np.arange(n) < seeds, 1 / seeds, 0)
    assert found.error == pytest.approx(stats.sem(own)) and found.low < 0 < found.high
    # The sign-flip test has 2 / 2^5.
    assert 2 / 2**seeds < found.p < 0.15
    both_ways = one_way.copy()
    both_ways[range(seeds, 2 * seeds), range(seeds)] = 0
    found = between(both_ways, seeds)
    assert found.p == 1 and found.high == pytest.approx(-found.low)
    assert found.error == pytest.approx(np.sqrt(2 * seeds / (n * (n - 1))) / seeds)


def test_the_planned_number_of_examples_has_the_planned_power():
    shift, runs = 0.1, 300
    # The difference of two values has the variance 2 · 0.5².
    n = round(examples_needed(100, shift, np.sqrt(0.5 / 100)))
    found = alarms(lambda draw: normal(draw, n, shift), runs)
    assert stats.binom.ppf(TAIL, runs, 0.8) <= found <= stats.binom.ppf(1 - TAIL, runs, 0.8)


def test_intervals_of_perplexities_cover_as_often_as_they_say():
    generator, runs, covered = np.random.default_rng(1), 400, 0
    for run in range(runs):
        found = between(normal(generator, 150, 0.2), average="exp", run=run)
        covered += found.low <= np.exp(0.2) - 1 <= found.high
    assert covered >= stats.binom.ppf(TAIL, runs, 1 - ALPHA)
    assert covered <= stats.binom.ppf(1 - TAIL, runs, 1 - ALPHA)


def test_the_interval_of_a_mean_is_that_of_scipys_bootstrap():
    values = normal(np.random.default_rng(2), 200, 0.05)
    found = between(values, resamples=20_000)
    apart = values[:, 0] - values[:, 1]
    theirs = stats.bootstrap((apart,), np.mean, n_resamples=20_000, method="percentile", rng=0)
    # Ends of 20,000 resamples vary by 2 % of an error.
    assert found.error == pytest.approx(theirs.standard_error, rel=0.03)
    ends = theirs.confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(ends), abs=0.1 * found.error)


def test_curves_are_interpolated_inside_each_resample():
    generator = np.random.default_rng(0)
    values, weights = generator.gamma(2.0, size=(80, 5)), generator.integers(1, 5, (80, 1)) + 0.0
    sizes, others, at = np.array([2.0, 4.0, 8.0]), np.array([3.0, 6.0]), 5.0
    found = resample(values, weights, 300, seed=4)
    first, second = np.zeros((5, 1)), np.zeros((5, 1))
    first[:3, 0], second[3:, 0] = shares(sizes, at), shares(others, at)
    got = difference(found, first, second)
    naive = []
    for draw in counts(80, 300, np.random.default_rng(4)):
        means = np.average(values, axis=0, weights=weights[:, 0] * draw)
        naive.append(
            np.interp(np.log(at), np.log(sizes), means[:3])
            - np.interp(np.log(at), np.log(others), means[3:])
        )
    assert got.error == pytest.approx(np.std(naive) * np.sqrt(80 / 79), rel=1e-9)
    assert np.min(naive) <= got.low <= np.quantile(naive, 0.025)


def test_models_alike_on_every_example_have_no_difference():
    values = np.random.default_rng(0).normal(size=(50, 3))
    found = between(np.hstack([values, values]), 3)
    assert (found.value, found.error, found.low, found.high, found.p) == (0, 0, 0, 0, 1)
    # Shares that add up to the same model to rounding only.
    thirds = np.repeat(values[:, :1], 3, axis=1)
    drawn = resample(thirds, np.ones((50, 1)), 100)
    split = difference(drawn, np.array([[0.3], [0.7], [0]]), np.array([[0], [0], [1.0]]))
    assert split.p == 1 and split.error < 1e-12


def test_one_example_tells_nothing():
    found = between(np.array([[1.0, 0.0]]))
    assert found.value == 1 and found.p == 1 and np.isnan(found.low)
    # Nor does one example of many on which alone two models differ.
    values = np.ones((500, 2))
    values[7, 1] = 0
    one = between(values)
    assert one.p == 1 and one.value == pytest.approx(1 / 500) and np.isnan(one.low)


@pytest.mark.parametrize(("first", "second"), [(4, 0), (5, 1), (8, 0), (15, 5), (60, 40)])
def test_of_right_and_wrong_answers_it_is_the_exact_test(first, second):
    """For one network the two are one test."""
    values = np.ones((400, 2))
    values[:first, 1] = 0
    values[first : first + second, 0] = 0
    found = between(values, resamples=100)
    assert found.p == pytest.approx(stats.binomtest(first, first + second).pvalue)


def test_a_model_that_is_broken_is_told_from_one_that_is_not():
    """Perplexities of 10 and of about 80,000, whose standard error is as large as itself."""
    generator = np.random.default_rng(0)
    good = generator.gamma(8.0, 0.3, size=(60, 1))
    worse = good + generator.gamma(2.0, 5.0, size=(60, 1))
    found = between(np.hstack([good, worse]), average="exp")
    assert -found.value < found.error
    assert found.p < 1e-4 and found.high < 0


def test_the_same_seed_gives_the_same_numbers_and_signs_change_with_the_order():
    values = seeded(np.random.default_rng(3), 5, shift=0.2)
    one, again = between(values, 5), between(values, 5)
    assert one == again
    other = between(np.hstack([values[:, 5:], values[:, :5]]), 5)
    assert other.value == pytest.approx(-one.value) and other.p == pytest.approx(one.p)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.3])
def test_interpolated_curves_raise_no_false_alarms(share):
    """A model that is on each example one of two points, drawn by the share, is no worse nor better
    than the value between them. Of 200 tests at 0.01, 8 or more alarms have probability 0.0012."""
    generator, alarms = np.random.default_rng(round(1000 * share)), 0
    good, weak = (generator.random((200, 360)) < right for right in (0.97, 0.80))
    mixed = np.where(generator.random(good.shape) < share, weak, good)
    for run, answers in enumerate(zip(mixed, good, weak, strict=True)):
        sample = resample(np.stack(answers, axis=1).astype(float), np.ones((360, 1)), 200, run)
        first, second = np.array([[1.0], [0], [0]]), np.array([[0], [1 - share], [share]])
        alarms += difference(sample, first, second).p < 0.01
    assert alarms < 8


# The parts by which the values of examples, of seeds and of each example and seed vary.
PARTS = {
    "only examples": (1.0, 0.0, 0.0),
    "only seeds": (0.0, 1.0, 0.0),
    "only both together": (0.0, 0.0, 1.0),
    "all three": (1.0, 0.1, 1.0),
}


@pytest.mark.parametrize(
    ("kind", "seeds"),
    [
        (kind, seeds)
        for kind in PARTS
        for seeds in (1, 3, 5, 10)
        # The difference of these networks has no error.
        if kind != "only seeds" or seeds >= LEAST_SEEDS
    ],
)
@pytest.mark.parametrize("share", [None, 0.4], ids=["measured", "interpolated"])
def test_intervals_cover_whatever_varies(kind, seeds, share):
    """Of fewer than five seeds the difference of these networks, from five on that of all."""
    of_examples, of_seeds, of_both = PARTS[kind]
    generator, n = np.random.default_rng(seeds), 50
    runs = 300 if seeds < LEAST_SEEDS else 1200
    points = np.array([1.0, -1.0] if share is None else [1.0, share - 1, -share])
    apart = np.kron(points[:, None], np.eye(seeds))
    resamples, covered, alarms = 300 if seeds < LEAST_SEEDS else 2, 0, 0
    for run in range(runs):
        networks = of_seeds * generator.normal(size=(len(points), seeds))
        examples = of_examples * generator.normal(size=(n, len(points), 1))
        together = of_both * generator.normal(size=(n, len(points), seeds))
        values = (networks + examples + together).reshape(n, -1)
        truth = 0.0 if seeds >= LEAST_SEEDS else float(networks.mean(axis=1) @ points)
        sample = resample(values, np.ones((n, 1)), resamples, run)
        found = difference(sample, np.maximum(apart, 0), np.maximum(-apart, 0))
        covered += found.low <= truth <= found.high
        alarms += found.p < ALPHA
    ends = stats.binom.ppf([TAIL, 1 - TAIL], runs, 1 - ALPHA)
    assert ends[0] <= covered <= ends[1]
    if not truth:
        assert alarms <= stats.binom.ppf(1 - TAIL, runs, ALPHA)


def test_seeds_and_examples_that_cancel_in_every_mean_tell_nothing():
    """Two examples and five seeds of which each has one half right: there is no variance left."""
    first = np.array([[1, 0, 1, 0, 1], [0, 1, 0, 1, 0.0]])
    sample = resample(np.concatenate([first, 1 - first], axis=1), np.ones((2, 1)), 10)
    one, other = np.eye(10)[:, :5], np.eye(10)[:, 5:]
    with np.errstate(all="raise"):
        assert difference(sample, one, other).p == 1.0
