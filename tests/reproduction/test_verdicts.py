"""The verdicts on numbers: by tolerance, networks, examples and printed digits."""

import math

import made_records
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_entries import entry, points, value, verdict
from scipy import stats

from experiments.reproduction import compare, ours, page
from experiments.reproduction import verdict as verdicts
from experiments.reproduction.entry import Row, Run
from experiments.reproduction.ours import Ours
from lowrank.records import store

FINITE = st.floats(-1e6, 1e6)
POSITIVE = st.floats(1e-3, 1e3)
EXACT = {"exact": True}
THREE = {"seeds": 3}


@given(published=FINITE, away=FINITE, tolerance=POSITIVE)
def test_an_exact_number_is_reproduced_exactly_within_its_tolerance(published, away, tolerance):
    found = verdict(published, [published + away], run=EXACT, tolerance=tolerance)
    past = abs(found.difference) / tolerance - 1
    # Rounding to the printed digits moves it by no more than half the last of them.
    decimals = verdicts.decimals(
        entry({"r": Row({"x": published}, {"a": 1})}, tolerance=tolerance), "x", published
    )
    half = 0.5 * 10.0**-decimals / tolerance
    if past <= -half:
        assert found.verdict == verdicts.REPRODUCED
    elif past > half + 1e-6 * max(1, abs(published) / tolerance):
        assert found.verdict == verdicts.NOT_REPRODUCED


@given(published=st.floats(0.1, 1e3), share=st.floats(-0.5, 0.5))
def test_a_relative_tolerance_is_a_share_of_the_published_figure(published, share):
    found = verdict(published, [published * (1 + share)], run=EXACT, tolerance=0.1, relative=True)
    assert found.allowed == pytest.approx(0.1 * published)
    if abs(abs(share) - 0.1) > 0.05:
        assert (found.verdict == verdicts.REPRODUCED) == (abs(share) < 0.1)


@pytest.mark.parametrize("networks", [2, 3, 5])
@pytest.mark.parametrize("of_networks, of_examples", [(0.3, 0.0), (0.1, 0.1), (0.02, 0.15)])
def test_a_wrong_verdict_is_as_rare_as_the_interval_says(networks, of_networks, of_examples):
    """The truth lies at the bound: each claim about it is wrong in one of forty cases at most."""
    generator = np.random.default_rng(networks)
    tries, published = 4000, 2.0
    truth = published + 0.5
    shared = of_examples * generator.standard_normal(tries)
    drawn = truth + shared[:, None]
    drawn = drawn + of_networks * generator.standard_normal((tries, networks))
    limits = value(tolerance=0.5, other_examples=of_examples > 0)
    run = Run(takes="seconds", sweep=["sweep=made_up", "seed=0,1"], seeds=networks)
    found = [
        verdicts.verdict(
            limits,
            run,
            published,
            Ours(one.mean(), one.std(ddof=1), networks, of_examples, networks, networks),
            6,
        )
        for one in drawn
    ]
    # Three standard errors of the share of 4,000 tries.
    most = 0.025 + 3 * math.sqrt(0.025 * 0.975 / tries)
    for claim in (verdicts.REPRODUCED, verdicts.NOT_REPRODUCED):
        assert np.mean([one == claim for one in found]) <= most
    assert np.mean([one == verdicts.UNDECIDED for one in found]) >= 1 - 2 * most


@pytest.mark.parametrize(
    "away, claim", [(0.0, verdicts.REPRODUCED), (2.0, verdicts.NOT_REPRODUCED)]
)
def test_what_is_far_from_the_bound_is_told(away, claim):
    generator = np.random.default_rng(0)
    drawn = 5.0 + away + 0.1 * generator.standard_normal((200, 3))
    told = [verdict(5.0, list(one), run=THREE).verdict for one in drawn]
    assert np.mean([one == claim for one in told]) > 0.95


def test_the_interval_is_students_t_for_few_networks():
    three, same = Ours(1.0, 0.3, 3), value()
    reach = 4.302653 * 0.3 / math.sqrt(3)
    assert three.interval(same) == pytest.approx((1 - reach, 1 + reach))
    both = Ours(1.0, 0.3, 3, 0.2)
    assert both.interval(same) == three.interval(same)
    # Satterthwaite: 0.03 of the networks with 2 degrees and 0.04 of the examples with many.
    degrees = 0.07**2 / (0.03**2 / 2)
    reach = stats.t.ppf(0.975, degrees) * math.sqrt(0.07)
    ends = both.interval(value(other_examples=True))
    assert ends == pytest.approx((1 - reach, 1 + reach))


@pytest.mark.parametrize("trials, claim", [(3, "undecided"), (11, "undecided"), (12, "reproduced")])
def test_trials_that_end_alike_are_no_certainty(trials, claim):
    """Wilson's interval of n of n begins at n / (n + 1.96²): of 12 at 0.757, of 11 at 0.741."""
    run = {"seeds": trials}
    for published in (0.0, 1.0):
        found = verdict(published, [published] * trials, run=run, share=True, tolerance=0.25)
        assert (found.verdict, found.ours.count, found.ours.exact) == (claim, trials, False)
        assert ("trials tell too little" in found.why) == (claim == "undecided")


@given(trials=st.integers(1, 40), data=st.data())
def test_the_interval_of_a_share_is_wilsons(trials, data):
    right = data.draw(st.integers(0, trials))
    mine = Ours(right / trials, 0.0, trials).interval(value(share=True))
    assert mine == pytest.approx(stats.binomtest(right, trials).proportion_ci(method="wilson"))


def test_a_share_of_trials_that_cannot_be():
    with pytest.raises(ValueError, match=r"within 0 and 1, not \[1.0, 100.0\]"):
        verdict(1.0, [1.0, 100.0], share=True)
    for other in ({"standard_error": "e"}, {"other_examples": True}, {"setting": True}):
        with pytest.raises(ValueError, match="share excludes"):
            value(share=True, **other)


def test_one_network_is_no_certainty():
    found = verdict(5.0, [5.0], run=THREE)
    assert found.verdict == verdicts.UNDECIDED and "one network of 3:" in found.why
    assert "one network: the" in verdict(5.0, [5.0], run={"seeds": 1}).why
    frames = points(a=[5.0])
    frames["only"]["e"] = 0.3
    # Its error over examples stands in for the spread: 1.96 · 0.3 on either side.
    for x, claim in [(5.3, "reproduced"), (5.6, "undecided"), (6.7, "not reproduced")]:
        frames["only"]["x"] = x
        assert verdict(5.01, [], frames, run=THREE, standard_error="e").verdict == claim


def test_equal_repetitions_are_one_network_and_exact():
    found = verdict(5.0, [5.5, 5.5, 5.5], run=THREE)
    assert (found.ours.count, found.ours.seeds, found.ours.exact) == (1, 3, True)
    assert found.verdict == verdicts.REPRODUCED
    two = verdict(5.0, [5.5, 5.6, 5.5], run=THREE)
    assert (two.ours.count, two.ours.exact) == (2, False)
    assert two.ours.spread == pytest.approx(math.sqrt(0.005))
    # Alike in one column and not in another, they are two networks.
    frames = points(a=[5.5, 5.5])
    frames["only"]["loss"] = [1.0, 2.0]
    assert verdict(5.0, [], frames, run=THREE).ours.count == 2


def test_seeds_that_are_missing_are_known():
    assert verdict(5.0, [5.5, 5.6], run=THREE).ours.is_incomplete
    assert not verdict(5.0, [5.5, 5.6, 5.7], run=THREE).ours.is_incomplete
    assert not verdict(5.0, [5.5, 5.5, 5.5], run=THREE).ours.is_incomplete
    assert not verdict(5.0, [], {"only": None}, run=THREE).ours.is_incomplete


def test_given_weights_on_the_same_images_have_no_error_and_on_others_they_have():
    frames = points(a=[5.9])
    frames["only"]["e"] = 0.3
    same = verdict(5.01, [], frames, run=EXACT, standard_error="e")
    other = verdict(5.01, [], frames, run=EXACT, standard_error="e", other_examples=True)
    assert (same.verdict, other.verdict) == (verdicts.REPRODUCED, verdicts.UNDECIDED)
    unknown = verdict(5.0, [5.0], run=EXACT, other_examples=True)
    assert unknown.verdict == verdicts.UNDECIDED and "published figure is of others" in unknown.why


@given(below=st.floats(0, 1e6))
def test_a_bound_may_be_beaten(below):
    found = verdict(5.0, [5.0 - below], run=EXACT, at_most=True)
    assert found.verdict == verdicts.REPRODUCED
    assert verdict(5.0, [6.6], run=EXACT, at_most=True).verdict == verdicts.NOT_REPRODUCED


@pytest.mark.parametrize(
    "ours_is, claim",
    [(1.6449, "reproduced"), (1.6451, "not reproduced"), (1.5351, "reproduced")],
)
def test_ours_is_rounded_to_the_printed_digits(ours_is, claim):
    assert verdict(1.59, [ours_is], run=EXACT, tolerance=0.05).verdict == claim


def test_the_printed_digits_are_those_of_the_column_and_never_fewer_than_the_tolerance_has():
    rows = {
        str(figure): Row({"x": figure}, {"method": "a"})
        for figure in (1.64, 0.8, 42.78, 31.5, 193.0)
    }
    made = entry(rows, tolerance=0.5)
    digits = [verdicts.decimals(made, "x", one) for one in (1.64, 0.8, 42.78, 31.5, 193.0)]
    assert digits == [2, 2, 2, 2, 1]
    small = entry({"r": Row({"x": 1.1e-6}, {"method": "a"})}, tolerance=1e-6)
    assert verdicts.decimals(small, "x", 1.1e-6) == 7
    none = {"r": Row({"x": 0.0}, {"method": "a"})}
    assert verdicts.decimals(entry(none, tolerance=0.25), "x", 0.0) == 1
    # Half of the trials are not what "none" is printed for.
    assert verdict(0.0, [0.4], run=EXACT, tolerance=0.25).verdict == verdicts.NOT_REPRODUCED


def test_a_setting_is_shown_and_no_verdict_of_a_reproduction():
    found = [verdict(8.0, [x], run=THREE, setting=True).verdict for x in (8.4, 10.0)]
    assert found == [verdicts.AS_SET, verdicts.NOT_AS_SET]


def test_the_weights_of_others_reproduce_no_training():
    run = EXACT | {"weights_of": "A. Nother"}
    found = [verdict(8.0, [x], run=run).verdict for x in (8.4, 10.0)]
    assert found == [verdicts.OTHERS_NEAR, verdicts.OTHERS_FAR]


def test_what_the_table_does_not_have_stands_alone():
    found = verdict(None, [8.0], row={"published": {}, "beside": ["x"]})
    assert found.verdict == verdicts.BESIDE and found.ours.mean == 8.0
    assert math.isnan(found.published)


def test_what_has_no_number_says_why():
    none = {"only": None}
    assert verdict(1.0, [], none).verdict == verdicts.NOT_RUN
    found = verdict(1.0, [], none, run={"needs": "a GPU"})
    assert (found.verdict, found.why) == (verdicts.CANNOT, "it needs a GPU")
    (found,) = compare.rows(entry({"r": Row({"x": 1.0}, left="no data")}), none)
    assert (found.verdict, found.why) == (verdicts.CANNOT, "no data")


def test_records_of_somebody_with_a_gpu_are_compared():
    assert verdict(1.0, [1.0], run=EXACT | {"needs": "a GPU"}).verdict == verdicts.REPRODUCED


def test_a_disputed_figure_stays_disputed_whatever_ours_is():
    for numbers in ([1.0], [9.0]):
        found = verdict(1.0, numbers, row={"disputed": {"x": "a misprint"}})
        assert (found.verdict, found.why) == (verdicts.DISPUTED, "a misprint")
        assert found.ours.count == 1


def test_records_are_selected_by_their_columns(tmp_path):
    made_records.write(tmp_path, seeds=3, methods=("svd", "magnitude"))
    frame = store.load(tmp_path)
    found = ours.selected(frame, {"method": "magnitude", "level": 0.9}, "rows.a")
    assert len(found) == 3 and set(found["seed"]) == {0, 1, 2}
    assert ours.selected(frame, {"method": "gptq"}, "rows.a").empty
    assert ours.selected(frame, {"method": "gptq", "level": 4}, "rows.a").empty
    with pytest.raises(ValueError, match="rows.a: select is of 5 points, which differ in level"):
        ours.selected(frame, {"method": "svd"}, "rows.a")
    with pytest.raises(ValueError, match="select names 'levl', which is no column"):
        ours.selected(frame, {"levl": 8}, "rows.a")


def test_an_expression_that_cannot_be_computed_names_its_place():
    with pytest.raises(ValueError, match="rows.r, x: '1 - nothing' cannot be computed"):
        verdict(1.0, [1.0], ours="1 - nothing")
    for constant in ("1", "'x'", "x.mean()"):
        with pytest.raises(ValueError, match="rows.r, x: .* no value for each record"):
            verdict(1.0, [1.0], ours=constant)
    with pytest.raises(ValueError, match="rows.r, x: .* cannot be computed"):
        verdict(1.0, [1.0], ours="method")
    with pytest.raises(ValueError, match="is no finite number in some of its records"):
        verdict(1.0, [math.nan])


def test_a_number_that_overflows_is_not_reproduced():
    with pytest.raises(ValueError, match="is no finite number in some of its records"):
        verdict(1.0, [1.0], ours="x / (dense_x - 2)")


def test_a_standard_error_is_shown_where_the_records_have_one():
    frames = points(a=[1.0])
    assert math.isnan(verdict(1.0, [], frames, standard_error="x_se").ours.error)
    frames["only"]["x_se"] = 0.25
    assert verdict(1.0, [], frames, standard_error="2 * x_se").ours.error == 0.5
    for wrong in ("2 * x_see", "y_se"):
        with pytest.raises(ValueError, match="rows.r, x: .* cannot be computed"):
            verdict(1.0, [], frames, standard_error=wrong)


@pytest.mark.parametrize(
    "one, like, text",
    [
        (Ours(), 1.0, "–"),
        (Ours(1.234, math.nan, 1), 1.5, "1.23"),
        (Ours(1.234, 0.1, 3), 1.59, "1.234 ± 0.100 (3)"),
        (Ours(1.2345e-7, math.nan, 1), 1.1e-6, "1.23e-07"),
        (Ours(0.5, math.nan, 1, 0.125), 0.25, "0.500, se 0.125"),
    ],
)
def test_numbers_have_a_digit_more_than_the_published_one(one, like, text):
    assert page.ours_text(one, like) == text


def test_the_page_says_how_many_networks_the_records_are_of():
    def text(numbers, **run):
        made = entry({"r": Row({"x": 5.0}, {"method": "a"})}, run=THREE | run)
        return page.markdown("t", made, list(compare.rows(made, points(a=numbers))), [])

    assert "Records of 1 of 3 seeds: **incomplete**." in text([5.0])
    assert "| not known |" in text([5.0])
    assert "Records of 3 of 3 seeds." in text([5.0, 5.1, 5.2])
    assert "Records of 3 of 3 seeds, 1 of them with numbers of their own." in text([5.0] * 3)
    said = text([5.0, 5.1, 5.2], weights_of="A. Nother")
    assert "The weights are those of A. Nother." in said and "not counted as reproduced" in said
