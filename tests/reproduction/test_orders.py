"""The verdicts on orders of methods: paired by seeds, and by examples where records hold them."""

import itertools
import json

import made_outcomes
import made_records
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_entries import entry, points

from experiments.reproduction import orders, page
from experiments.reproduction import verdict as verdicts
from experiments.reproduction.ordering import OrderedMethod, Ordering
from lowrank.records import store
from lowrank.tasks.class_metrics import class_metrics
from lowrank.tasks.task import loss_metric

CLASSES = (*class_metrics(10), loss_metric())
BETTER = {"lower": -1, "higher": 1}
EXACT = {"exact": True}


def order(figures, frames, run=None, dense=None, select=None, **fields):
    """The verdict on an order of methods with these published figures."""
    of = {
        n: OrderedMethod(published=p, select={"method": n} | (select or {}))
        for n, p in figures.items()
    }
    made = entry(orderings={"o": Ordering("x", of, dense=dense)}, run=run, **fields)
    (found,) = orders.orderings(made, frames)
    return found


@given(
    better=st.sampled_from(sorted(BETTER)),
    ours=st.lists(st.integers(0, 50), min_size=3, max_size=3, unique=True),
)
def test_an_exact_order_is_the_same_exactly_if_each_pair_is(better, ours):
    names, figures = ["a", "b", "c"], {"a": 1.0, "b": 2.0, "c": 3.0}
    frames = points(**{n: [float(x)] for n, x in zip(names, ours, strict=True)})
    found = order(figures, frames, EXACT, better=better)
    sign = BETTER[better]
    by_paper = sorted(names, key=lambda n: -sign * figures[n])
    assert [one.place for one in found.members] == by_paper
    by_us = sorted(names, key=lambda n: -sign * ours[names.index(n)])
    same = by_paper == by_us
    assert found.verdict == (orders.SAME_ORDER if same else orders.OTHER_ORDER)
    assert len(found.pairs) == 3 and (found.agreeing == 3) == same


def test_one_seed_without_examples_tells_nothing():
    found = order({"a": 1.0, "b": 2.0}, points(a=[1.0], b=[9.0]))
    assert found.verdict == verdicts.UNDECIDED and np.isnan(found.pairs[0].p)


def test_a_tie_of_the_paper_is_no_claim():
    found = order({"a": 1, "b": 1, "c": 2}, points(a=[1.0], b=[5.0], c=[9.0]), EXACT)
    assert (len(found.pairs), found.verdict) == (2, orders.SAME_ORDER)


def test_seeds_are_paired():
    """What is alike in all methods of a seed hides no order, however much seeds scatter."""
    scatter = np.array([0.0, 50.0, -30.0, 10.0])
    frames = points(a=list(scatter + [1, 1.1, 0.9, 1]), b=list(scatter + [2, 2.1, 2, 1.9]))
    assert order({"a": 1, "b": 2}, frames, {"seeds": 4}).verdict == orders.SAME_ORDER
    apart = points(a=list(scatter), b=list(scatter[::-1] + 1))
    assert order({"a": 1, "b": 2}, apart, {"seeds": 4}).verdict == verdicts.UNDECIDED


def test_false_claims_about_seeds_are_rare():
    generator = np.random.default_rng(0)
    drawn = generator.standard_normal((150, 3, 3))
    found = [
        order({"a": 1, "b": 2, "c": 3}, points(**dict(zip("abc", map(list, one), strict=True))))
        for one in drawn
    ]
    told = np.mean([any(pair.agrees is not None for pair in one.pairs) for one in found])
    assert told <= 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5


def saved(folder, values, n=100, seeds=1):
    """Records of methods whose examples are right with given shares, and their outcomes."""
    methods = tuple(values)
    for record in made_records.records(seeds=seeds, methods=methods):
        rng = np.random.default_rng([record["seed"], n])
        draw = rng.random(n)
        right = (draw < values[record["method"]]).astype(float)
        one = {"top1": right, "loss": 1 - right, "flipped": 0 * right}
        dense = {"top1": np.ones(n), "loss": np.zeros(n)}
        store.save(made_outcomes.with_outcomes(record, made_outcomes.outcomes(dense, one)), folder)
    return {"only": store.load(folder)}


@pytest.mark.parametrize("n, claim", [(400, orders.SAME_ORDER), (40, verdicts.UNDECIDED)])
def test_one_seed_is_tested_on_its_examples(tmp_path, n, claim):
    frames = saved(tmp_path, {"svd": 0.9, "magnitude": 0.85}, n)
    level = {"svd": {"level": 8}, "magnitude": {"level": 0.9}}
    of = {
        name: OrderedMethod(published=p, select={"method": name} | level[name])
        for name, p in {"svd": 90.0, "magnitude": 80.0}.items()
    }
    made = entry(orderings={"o": Ordering("x", of)}, run=EXACT, ours="100 * top1", better="higher")
    (found,) = orders.orderings(made, frames)
    assert found.verdict == claim
    (pair,) = found.pairs
    own = {m.place: m.ours.mean for m in found.members}
    assert pair.gain == pytest.approx(own["svd"] - own["magnitude"])


def test_an_order_of_which_one_is_measured_is_not_run():
    found = order({"a": 1.0, "b": 1.0}, points(a=[1.0]))
    assert (found.pairs, found.verdict) == ((), verdicts.NOT_RUN)


def test_ratios_to_the_dense_model():
    of = {n: OrderedMethod(published=4.0, select={"method": n}) for n in "ab"}
    made = entry(orderings={"o": Ordering("x", of, dense=2.0)}, run=EXACT, dense="dense_x")
    (found,) = orders.orderings(made, points(a=[6.0], b=[8.0]))
    text = page.markdown("t", made, [], [found])
    assert "| a | 4 | 2 | 6 | 3 |" in text and "| b | 4 | 2 | 8 | 4 |" in text


def test_the_page_names_each_pair():
    found = order({"a": 1.0, "b": 2.0}, points(a=[1.0], b=[9.0]), EXACT)
    of = {n: OrderedMethod(published=p, select={"method": n}) for n, p in {"a": 1, "b": 2}.items()}
    made = entry(orderings={"o": Ordering("x", of)}, run=EXACT)
    assert "- a better than b: so here (p = 0)" in page.markdown("t", made, [], [found])
    assert len(list(itertools.combinations(found.members, 2))) == len(found.pairs)


@pytest.mark.parametrize("factor, claim", [(1.0, orders.SAME_ORDER), (1.5, verdicts.UNDECIDED)])
def test_perplexities_are_tested_by_their_sequences_and_seeds(tmp_path, factor, claim):
    """Where a second seed says the contrary, what examples say of the first is not enough."""
    levels, made = {"gptq": 4, "magnitude": 0.3}, []
    for method, seed in itertools.product(levels, (0, 1)):
        record = made_records.text_record(method, 0, seed)
        worse = factor if (method, seed) == ("gptq", 1) else 1.0
        compressed = record["compressed"]
        more = {"perplexity": compressed["perplexity"] * worse}
        made.append(made_outcomes.text(record | {"compressed": compressed | more}))
    frame = store.load(made_outcomes.write(tmp_path, made))
    figures = {"gptq": 1.0, "magnitude": 2.0}
    of = {
        method: OrderedMethod(figures[method], {"method": method, "level": level})
        for method, level in levels.items()
    }
    made_up = entry(orderings={"o": Ordering("x", of)}, run={"seeds": 2}, ours="perplexity")
    (found,) = orders.orderings(made_up, {"only": frame})
    assert found.verdict == claim


def test_each_method_takes_the_setting_that_is_best_on_validation():
    """Whatever the values on the test split are, and in the direction of the measure."""
    rates = (0.001, 0.01, 0.1)
    validation = {("svd", 0.001): 0.9, ("svd", 0.01): 0.8, ("random", 0.001): 0.2}
    validation |= {("random", 0.01): 0.3, ("svd", 0.1): 0.1, ("random", 0.1): 0.1}
    rows = [
        {
            "method": method,
            "point": f"{method} {rate}",
            "seed": 0,
            "rate": rate,
            "validation_top1": value,
            "validation_loss": 1 - value,
            "x": 100 * rate,
            "metrics": json.dumps(made_records.plain(CLASSES)),
        }
        for (method, rate), value in validation.items()
    ]
    frames = {"only": pd.DataFrame(rows)}
    of = {
        n: OrderedMethod(published=p, select={"method": n}) for n, p in (("svd", 1), ("random", 2))
    }
    for by in ("validation_top1", "validation_loss"):
        one = Ordering("x", of, tuned="rate", by=by)
        made = entry(orderings={"o": one}, run=EXACT)
        (found,) = orders.orderings(made, frames)
        chosen = {"svd": "rate=0.001, the smallest of 3 tried", "random": "rate=0.01"}
        assert found.settings == chosen
        assert [m.ours.mean for m in found.members] == pytest.approx([100 * r for r in rates[:2]])
        text = page.markdown("t", made, [], [found])
        assert f"each method at its best rate by {by}" in text and "| random (rate=0.01) |" in text
    named = frames["only"].assign(rate=[f"rate {rate}" for rate in frames["only"]["rate"]])
    (found,) = orders.orderings(made, {"only": named})
    assert found.settings == {"svd": "rate=rate 0.001", "random": "rate=rate 0.01"}
    with pytest.raises(ValueError, match="select is of 3 points"):
        list(orders.orderings(entry(orderings={"o": Ordering("x", of)}, run=EXACT), frames))
    lacking = {"only": frames["only"].drop(columns="rate")}
    with pytest.raises(ValueError, match="orderings.o.svd: no record has a value of 'rate'"):
        list(orders.orderings(entry(orderings={"o": one}, run=EXACT), lacking))


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"tuned": "rate"}, "tuned, a setting, and by, what chooses it, go together"),
        ({"tuned": "rate", "by": "top1"}, "by='top1' must be a measure on the validation split"),
        ({"tuned": "method", "by": "validation_top1"}, "select sets method, which is tuned"),
    ],
)
def test_what_is_tuned_is_chosen_on_validation(fields, reason):
    of = {n: OrderedMethod(published=1, select={"method": n}) for n in "ab"}
    with pytest.raises(ValueError, match=reason):
        Ordering("x", of, **fields)
