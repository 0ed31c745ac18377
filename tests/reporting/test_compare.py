"""Comparisons pair test examples, say which differences are real, and refuse what is none."""

import math
from dataclasses import replace

import made_outcomes
import made_records as records
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lowrank.metrics.metric import Metric
from lowrank.records import columns, store
from lowrank.reporting import evidence, verdicts
from lowrank.reporting.compare import compare
from lowrank.reporting.verdicts import Verdict, sentences
from lowrank.statistics.differences import Difference
from lowrank.statistics.hypotheses import holm
from lowrank.statistics.resampling import counts

N = 200
BITS = "layers_bits_per_weight"


def load(folder, made_up):
    return store.load(made_outcomes.write(folder, made_up))


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    methods = ("magnitude", "uniform", "codebook", "svd", "lora")
    made_up = (made_outcomes.images(one, N) for one in records.records(3, methods))
    return load(tmp_path_factory.mktemp("images"), made_up)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    made_up = (
        made_outcomes.text(records.text_record(method, step))
        for method in ("gptq", "awq", "rtn", "svd_llm")
        for step in range(3)
    )
    return load(tmp_path_factory.mktemp("texts"), made_up)


def mcnemar(first, second):
    return stats.binomtest(int((first > second).sum()), int((first != second).sum())).pvalue


def top1(method, step, seed):
    found = made_outcomes.images(records.record(method, step, seed), N).outcomes
    return found.compressed["top1"]


def test_one_seed_at_one_size_is_tested_exactly(frame):
    """The levels of magnitude and SVD have one size; nothing is interpolated."""
    found = compare(frame[frame["seed"] == 0], "magnitude", "svd")
    p = [mcnemar(top1("magnitude", step, 0), top1("svd", step, 0)) for step in range(5)]
    assert [one.tested.difference.p for one in found.verdicts] == pytest.approx(p)
    assert [one.p for one in found.verdicts] == pytest.approx(holm(np.array(p)))
    assert all(one.tested.exact and one.measured == (True, True) for one in found.verdicts)
    assert set(found.table.values["test"]) == {"McNemar, exact"}
    for step, one in enumerate(found.verdicts):
        apart = top1("magnitude", step, 0) - top1("svd", step, 0)
        assert one.tested.difference.value == pytest.approx(apart.mean())
        # The error of 2,000 resamples is 2 % of it.
        assert one.tested.difference.error == pytest.approx(stats.sem(apart), rel=0.06)


def test_several_seeds_are_compared_network_by_network(frame):
    found = compare(frame, "magnitude", "svd")
    for step, one in enumerate(found.verdicts):
        pairs = [top1("magnitude", step, seed) - top1("svd", step, seed) for seed in range(3)]
        apart = np.mean(pairs, axis=0)
        assert not one.tested.exact and one.tested.seeds == 3
        assert one.tested.difference.value == pytest.approx(apart.mean())
        assert one.tested.difference.error == pytest.approx(stats.sem(apart), rel=0.06)
    assert "magnitude and svd (for these 3 networks, 200 examples): " in str(found)


def test_perplexities_are_interpolated_by_their_logarithm(texts):
    shifted = texts.copy()
    own = shifted["method"] == "awq"
    shifted.loc[own, BITS] *= 1.1
    found = {one.at: one for one in compare(shifted, "gptq", "awq", size=BITS).verdicts}
    assert sorted(found) == pytest.approx([2.58, 3.31, 3.652, 4.32])
    one = found[min(found, key=lambda at: abs(at - 3.31))]
    assert one.measured == (True, False)
    sizes, losses = np.log([2.552, 3.652]), np.log([310.0, 8.9])
    second = math.exp(np.interp(math.log(3.31), sizes, losses))
    assert one.tested.difference.second == pytest.approx(second)
    assert one.tested.difference.first == pytest.approx(7.869)
    # Resample by resample, on the logarithms.
    parts = {
        name: made_outcomes.text(records.text_record(*name)).outcomes.compressed["perplexity"]
        for name in (("gptq", 1), ("awq", 1), ("awq", 2))
    }
    drawn = counts(60, 2000, np.random.default_rng(0)) / 60
    share = (math.log(3.31) - sizes[0]) / (sizes[1] - sizes[0])
    read = drawn @ (share * parts["awq", 1] + (1 - share) * parts["awq", 2])
    error = (np.exp(drawn @ parts["gptq", 1]) - np.exp(read)).std() * math.sqrt(60 / 59)
    assert one.tested.difference.error == pytest.approx(error, rel=1e-6)


def test_the_sentences_say_who_is_better_where_and_how_many_examples_would_tell(texts):
    found = compare(texts, "gptq", "awq", size=BITS)
    (sentence,) = found.sentences
    assert sentence.startswith("gptq and awq (for this network, 60 examples): ")
    assert "awq is better by 11.769 ± " in sentence and " at 2.58 bits (p < 0.001)" in sentence
    assert "gptq is better by 1.031 ± " in sentence and " at 3.31 bits (p < 0.001)" in sentence
    last = found.verdicts[-1]
    assert last.better is None and 60 < last.needed < math.inf
    assert "at 4.32 bits they cannot be told apart (0.085 ± " in sentence
    assert sentence.endswith(f"about {float(f'{last.needed:.2g}'):.0f} examples would tell).")


def test_a_difference_that_only_the_correction_takes_back_says_so(texts):
    one = compare(texts, "gptq", "awq", size=BITS).verdicts[-1]
    alone = replace(one.tested, difference=replace(one.tested.difference, p=0.02))
    shown, small = (columns.measure(texts, name) for name in ("perplexity", BITS))
    (text,) = sentences([replace(one, tested=alone, p=0.12)], shown, small, 60)
    assert ", p = 0.020 alone and 0.12 among all tests; about " in text


def test_what_was_not_told_needs_more_examples_than_there_are(frame, texts):
    for found, n in ((compare(frame), N), (compare(texts, size=BITS), 60)):
        undecided = [one.needed for one in found.verdicts if one.better is None]
        assert undecided and min(undecided) > n


def test_points_in_percent_and_the_same_on_every_example(frame):
    twin = frame[frame["method"] == "uniform"].assign(method="twin")
    found = compare(pd.concat([frame, twin], ignore_index=True), "uniform", "twin")
    assert all(one.p == 1 and one.better is None for one in found.verdicts)
    assert "they are alike on every example" in str(found)
    assert " points at 3.93× (p " in str(compare(frame, "magnitude", "svd"))


def test_every_pair_is_compared_and_corrected_together(frame):
    every = compare(frame, "all")
    assert [v.p for v in every.verdicts] == [v.p for v in compare(frame).verdicts]
    pair = compare(frame, "codebook", "uniform")
    own = [one for one in every.verdicts if (one.first, one.second) == ("codebook", "uniform")]
    assert [v.tested.difference for v in own] == [v.tested.difference for v in pair.verdicts]
    assert all(a.p >= b.p for a, b in zip(own, pair.verdicts, strict=True))
    # LoRA makes models larger: it has no size in common with another.
    assert every.sentences[-1].startswith("No compression ratio in common: codebook and lora, ")


def test_the_order_of_names_changes_signs_only(frame):
    one, other = compare(frame, "magnitude", "svd"), compare(frame, "svd", "magnitude")
    for a, b in zip(one.verdicts, other.verdicts, strict=True):
        assert a.tested.difference.value == pytest.approx(-b.tested.difference.value)
        assert a.p == pytest.approx(b.p) and a.better == b.better
    assert str(compare(frame, "magnitude", "svd")) == str(one)


def test_the_table_is_saved_with_all_that_the_sentences_say(frame, tmp_path):
    found = compare(frame, "magnitude", "uniform")
    assert [path.suffix for path in found.table.save(tmp_path / "x")] == [".csv", ".md", ".tex"]
    values = found.table.values
    assert list(values["better"]) == [one.better or "" for one in found.verdicts]
    assert (values["difference_low"] <= values["difference"]).all()
    assert "corrected by Holm for 6 tests" in found.table.caption
    bold = found.table.best[["first", "second"]].to_numpy()
    assert list(bold.any(axis=1)) == [one.better is not None for one in found.verdicts]
    assert "~" in found.table.to_markdown() and r"\textasciitilde{}" in found.table.to_latex()


def seeds(count, methods=("magnitude", "svd")):
    return (made_outcomes.images(one, N) for one in records.records(count, methods))


def test_from_five_seeds_on_the_claim_is_about_seeds(tmp_path):
    found = compare(load(tmp_path, seeds(5)), "magnitude", "svd")
    assert all(one.tested.difference.over_seeds for one in found.verdicts)
    assert "(over 5 seeds, and for others like them, 200 examples)" in str(found)
    assert found.table.values["difference_se_of_seeds"].notna().all()


def test_seeds_that_gave_the_same_numbers_count_once(tmp_path):
    def repeated(method, seed):
        one = made_outcomes.images(records.record(method, 1), N)
        config = records.record(method, 1, seed)["config"]
        found = {**one, "seed": seed, "config": config, "key": store.key(config)}
        return made_outcomes.with_outcomes(found, one.outcomes)

    made_up = [repeated(method, seed) for method in ("magnitude", "svd") for seed in range(6)]
    found = compare(load(tmp_path, made_up), "magnitude", "svd")
    assert {one.tested.seeds for one in found.verdicts} == {1}
    assert "for this network" in str(found)


def refused(message, frame, *methods, **settings):
    with pytest.raises(ValueError, match=message):
        compare(frame, *methods, **settings)


def test_what_cannot_be_compared_is_one_clear_error(frame, texts):
    mixed = pd.concat([frame, texts], ignore_index=True)
    refused("the records mix 2 values of 'task' .*cannot be compared", mixed, "svd", "gptq")
    other = frame.assign(model=frame["model"].where(frame["method"] == "svd", "other"))
    refused("the records mix 2 values of 'model'", other, "svd", "uniform")
    refused("no record is of method 'gptk': there are codebook, lora, mag", frame, "svd", "gptk")
    refused("'svd' is one method alone: name another .*, of codebook", frame, "svd")
    refused("'svd' is one method alone", frame, "svd", "svd")
    refused("'svd' is one method alone", frame[frame["method"] == "svd"])
    refused("metric='macro_f1' is no average .*take one that is .*top1", frame, metric="macro_f1")
    refused(
        "lora and svd have no compression ratio in common .lora from 0.73 to 0.97, svd from 1.92 to"
        " 33.89., and nothing is extrapolated",
        *(frame, "lora", "svd"),
    )
    refused("hold no column 'top7'", frame, metric="top7")
    refused("the selection left none", frame.head(0))


def test_a_method_without_a_value_is_refused_by_name_and_left_out_of_all(frame):
    part = frame.assign(speedup_b1=frame["speedup_b1"].mask(frame["method"] == "uniform"))
    message = "no record of uniform has both top1 and speedup_b1"
    refused(message, part, "uniform", "svd", size="speedup_b1")
    found = compare(part, size="speedup_b1").verdicts
    assert found and "uniform" not in {one.first for one in found} | {one.second for one in found}


def test_records_without_outcomes_are_refused(frame, tmp_path):
    bare = store.load(records.write(tmp_path, 1, ("random",)))
    both = pd.concat([frame[frame["seed"] == 0], bare], ignore_index=True)
    message = "5 of 10 records have no outcomes of single examples beside them, such as "
    refused(message + str(tmp_path), both, "svd", "random")


def test_other_test_examples_are_refused(frame, tmp_path):
    moved = load(
        tmp_path, (made_outcomes.images(one, N, first=1) for one in records.records(3, ("n_m",)))
    )
    both = pd.concat([frame, moved], ignore_index=True)
    refused("cannot be paired: 200 and 200, of which 199 are the same", both, "svd", "n_m")


def test_methods_of_other_seeds_are_refused(frame):
    apart = frame[(frame["method"] == "svd") == (frame["seed"] == 0)]
    refused("svd and magnitude have no seed in common", apart, "svd", "magnitude")


def test_a_seed_that_is_there_twice_is_refused(frame):
    twice = frame.assign(seed=frame["seed"].replace(2, 1))
    refused("has seed 1 more than once", twice, "svd", "magnitude")


@pytest.mark.parametrize(
    ("scale", "error", "words"),
    [
        ("plain", 0.00004, ("0.98700", "-0.00012 ± 0.00004", "-0.00020 to -0.00004")),
        ("plain", 0.004, ("0.987", "-0.000 ± 0.004", "-0.000 to -0.000")),
        ("plain", 0.0, ("0.987", "-0.000 ± 0.000", "-0.000 to -0.000")),
        ("percent", 0.00004, ("98.700", "-0.012 ± 0.004", "-0.020 to -0.004")),
    ],
)
def test_a_difference_has_the_digits_of_its_error(scale, error, words, frame):
    metric = Metric("quality", "quality", "quality", scale)
    found = Difference(0.987, 0.98712, error, 0.0, -0.0002, -0.00004, 0.001, False, True)
    tested = evidence.Tested(found, 1, 1, False)
    verdict = Verdict("a", "b", 2.0, (True, True), tested, 1, 0.001, 100)
    compared = verdicts.table(frame, [verdict], metric, metric, 872, 2000)
    shown = compared.cells.iloc[0]
    assert tuple(shown[["value of first", "difference", "95 % interval"]]) == words
