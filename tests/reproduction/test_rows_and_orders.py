"""The verdicts: on numbers, by tolerance and spread, and on orders of methods."""

import math

import made_records
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.reproduction import compare, page
from experiments.reproduction.compare import Ours
from experiments.reproduction.entry import Entry, OrderedMethod, Ordering, Row, Run, Source, Value
from lowrank.records import store

FINITE = st.floats(-1e6, 1e6)
POSITIVE = st.floats(1e-3, 1e3)
BETTER = {"lower": -1, "higher": 1}


def value(**fields) -> Value:
    given = {"heading": "h", "ours": "x", "tolerance": 1.0, "why": "w", "better": "lower"}
    return Value(**(given | fields))


def entry(rows=None, orderings=None, needs="", **fields) -> Entry:
    run = Run(takes="seconds", sweep=["sweep=made_up"], needs=needs)
    source = Source(paper="p", where="w", link="l", read="text")
    values = {"x": value(**fields)}
    shared = {"title": "t", "source": source, "protocol": "p", "differs": "d"}
    return Entry(
        **shared, runs={"only": run}, values=values, rows=rows or {}, orderings=orderings or {}
    )


def points(**numbers) -> dict:
    """Records of methods by name, at one seed for each number."""
    rows = [
        {"method": method, "point": method, "seed": seed, "x": x, "dense_x": 2.0}
        for method, values in numbers.items()
        for seed, x in enumerate(values)
    ]
    return {"only": pd.DataFrame(rows)}


def verdict(published, numbers, frames=None, **fields):
    row = Row(published={"x": published}, select={"method": "a"})
    (found,) = compare.rows(entry({"r": row}, **fields), frames or points(a=numbers))
    return found


@given(published=FINITE, away=FINITE, tolerance=POSITIVE)
def test_one_number_is_reproduced_exactly_within_its_tolerance(published, away, tolerance):
    found = verdict(published, [published + away], tolerance=tolerance)
    within = abs(found.ours.mean - published) <= tolerance
    assert found.verdict == (compare.REPRODUCED if within else compare.NOT_REPRODUCED)


@given(published=st.floats(0.1, 1e3), share=st.floats(-0.5, 0.5))
def test_a_relative_tolerance_is_a_share_of_the_published_figure(published, share):
    found = verdict(published, [published * (1 + share)], tolerance=0.1, relative=True)
    assert found.allowed == pytest.approx(0.1 * published)
    if abs(abs(share) - 0.1) > 1e-9:
        assert (found.verdict == compare.REPRODUCED) == (abs(share) < 0.1)


@given(numbers=st.lists(st.floats(-10, 10), min_size=2, max_size=6), published=st.floats(-10, 10))
def test_seeds_that_scatter_across_the_bound_decide_nothing(numbers, published):
    found = verdict(published, numbers)
    frame = pd.Series(numbers)
    assert found.ours.mean == pytest.approx(frame.mean())
    assert found.ours.spread == pytest.approx(frame.std())
    noise = compare.SURE * frame.std() / math.sqrt(len(numbers))
    away = abs(found.difference)
    if away + noise < 1 - 1e-9:
        assert found.verdict == compare.REPRODUCED
    elif away - noise > 1 + 1e-9:
        assert found.verdict == compare.NOT_REPRODUCED
    elif abs(away + noise - 1) > 1e-9 and abs(away - noise - 1) > 1e-9:
        assert found.verdict == compare.UNDECIDED


@given(below=st.floats(0, 1e6))
def test_a_bound_may_be_beaten(below):
    assert verdict(5.0, [5.0 - below], at_most=True).verdict == compare.REPRODUCED
    assert verdict(5.0, [6.5], at_most=True).verdict == compare.NOT_REPRODUCED


def test_what_has_no_number_says_why():
    none = {"only": None}
    assert verdict(1.0, [], none).verdict == compare.NOT_RUN
    found = verdict(1.0, [], none, needs="a GPU")
    assert (found.verdict, found.why) == (compare.CANNOT, "it needs a GPU")
    (found,) = compare.rows(entry({"r": Row({"x": 1.0}, left="no data")}), none)
    assert (found.verdict, found.why) == (compare.CANNOT, "no data")


def test_records_of_somebody_with_a_gpu_are_compared():
    assert verdict(1.0, [1.0], needs="a GPU").verdict == compare.REPRODUCED


def test_a_disputed_figure_stays_disputed_whatever_ours_is():
    row = Row(published={"x": 1.0}, select={"method": "a"}, disputed={"x": "a misprint"})
    for numbers in ([1.0], [9.0]):
        (found,) = compare.rows(entry({"r": row}), points(a=numbers))
        assert (found.verdict, found.why) == (compare.DISPUTED, "a misprint")
        assert found.ours.count == 1


def test_a_dash_of_the_table_is_no_number():
    row = Row(published={"x": None}, select={"method": "a"})
    assert not list(compare.rows(entry({"r": row}), points(a=[1.0])))


@given(
    better=st.sampled_from(sorted(BETTER)),
    ours=st.lists(st.integers(0, 50), min_size=3, max_size=3, unique=True),
)
def test_an_order_is_the_same_exactly_if_each_pair_is(better, ours):
    names = ["a", "b", "c"]
    figures = {"a": 1.0, "b": 2.0, "c": 3.0}
    of = {n: OrderedMethod(published=figures[n], select={"method": n}) for n in names}
    made = entry(orderings={"o": Ordering("x", of)}, better=better)
    frames = points(**{n: [float(x)] for n, x in zip(names, ours, strict=True)})
    (found,) = compare.orderings(made, frames)
    sign = BETTER[better]
    by_paper = sorted(names, key=lambda n: -sign * figures[n])
    assert [one.place for one in found.members] == by_paper
    by_us = sorted(names, key=lambda n: -sign * ours[names.index(n)])
    same = by_paper == by_us
    assert found.verdict == (compare.SAME_ORDER if same else compare.OTHER_ORDER)
    assert found.pairs == 3 and (found.agreeing == 3) == same


def test_a_tie_of_the_paper_is_no_claim_and_noise_no_contradiction():
    of = {
        n: OrderedMethod(published=p, select={"method": n})
        for n, p in zip("abc", (1, 1, 2), strict=True)
    }
    made = entry(orderings={"o": Ordering("x", of)})
    (found,) = compare.orderings(made, points(a=[1.0], b=[5.0], c=[9.0]))
    assert (found.pairs, found.verdict) == (2, compare.SAME_ORDER)
    (found,) = compare.orderings(made, points(a=[1.0, 9.0], b=[1.0, 9.0], c=[1.1, 8.0]))
    assert (found.agreeing, found.verdict) == (0, compare.UNDECIDED)


def test_an_order_of_which_one_is_measured_is_not_run():
    of = {n: OrderedMethod(published=1.0, select={"method": n}) for n in "ab"}
    (found,) = compare.orderings(entry(orderings={"o": Ordering("x", of)}), points(a=[1.0]))
    assert (found.pairs, found.verdict) == (0, compare.NOT_RUN)


def test_ratios_to_the_dense_model():
    of = {n: OrderedMethod(published=4.0, select={"method": n}) for n in "ab"}
    made = entry(orderings={"o": Ordering("x", of, dense=2.0)}, dense="dense_x")
    (found,) = compare.orderings(made, points(a=[6.0], b=[8.0]))
    text = page.markdown("t", made, [], [found])
    assert "| a | 4 | 2 | 6.0 | 3 |" in text and "| b | 4 | 2 | 8.0 | 4 |" in text


def test_records_are_selected_by_their_columns(tmp_path):
    made_records.write(tmp_path, seeds=3, methods=("svd", "magnitude"))
    frame = store.load(tmp_path)
    found = compare.selected(frame, {"method": "magnitude", "level": 0.9}, "rows.a")
    assert len(found) == 3 and set(found["seed"]) == {0, 1, 2}
    assert compare.selected(frame, {"method": "gptq"}, "rows.a").empty
    assert compare.selected(frame, {"method": "gptq", "level": 4}, "rows.a").empty
    with pytest.raises(ValueError, match="rows.a: select is of 5 points, which differ in level"):
        compare.selected(frame, {"method": "svd"}, "rows.a")
    with pytest.raises(ValueError, match="select names 'levl', which is no column"):
        compare.selected(frame, {"levl": 8}, "rows.a")


def test_an_expression_that_cannot_be_computed_names_its_place():
    with pytest.raises(ValueError, match="rows.r, x: '1 - nothing' cannot be computed"):
        verdict(1.0, [1.0], ours="1 - nothing")
    with pytest.raises(ValueError, match="is no number in some of its records"):
        verdict(1.0, [math.nan])


def test_a_standard_error_is_shown_where_the_records_have_one():
    frames = points(a=[1.0])
    assert math.isnan(verdict(1.0, [], frames, standard_error="x_se").ours.error)
    frames["only"]["x_se"] = 0.25
    assert verdict(1.0, [], frames, standard_error="2 * x_se").ours.error == 0.5


@pytest.mark.parametrize(
    "ours, like, text",
    [
        (Ours(), 1.0, "–"),
        (Ours(1.234, math.nan, 1), 1.5, "1.23"),
        (Ours(1.234, 0.1, 3), 1.59, "1.234 ± 0.100 (3)"),
        (Ours(1.2345e-7, math.nan, 1), 1.1e-6, "1.23e-07"),
        (Ours(0.5, math.nan, 1, 0.125), 0.25, "0.500, se 0.125"),
    ],
)
def test_numbers_have_a_digit_more_than_the_published_one(ours, like, text):
    assert page.ours_text(ours, like) == text
