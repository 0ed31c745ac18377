"""Means and spreads against hand counts, the Pareto front against its definition."""

import math
import statistics

import made_records as records
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank.records import store
from lowrank.records.columns import measure
from lowrank.reporting.curves import (
    comparisons,
    dense_baseline,
    in_several_norms,
    norms_in_order,
    pareto_front,
    quality_measures,
    summarise,
    with_distinct_names,
)
from lowrank.reporting.tables import summary_table

numbers = st.integers(0, 4).map(float) | st.just(math.nan)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return store.load(records.write(tmp_path_factory.mktemp("runs")))


@given(st.lists(st.tuples(numbers, numbers), max_size=12), st.booleans())
def test_the_front_is_what_no_other_point_beats(points, higher):
    def beats(a, b):
        gain = a[1] - b[1] if higher else b[1] - a[1]
        return a[0] >= b[0] and gain >= 0 and (a[0] > b[0] or gain > 0)

    front = pareto_front([x for x, _ in points], [y for _, y in points], higher)
    for point, on_front in zip(points, front, strict=True):
        finite = not any(map(math.isnan, point))
        assert on_front == (finite and not any(beats(other, point) for other in points))


def test_means_and_spreads_are_over_the_seeds_of_a_point(frame):
    row = summarise(frame, ["top1"]).query("method == 'svd' and level == 8").iloc[0]
    made_up = [records.record("svd", 2, seed) for seed in range(3)]
    tops = [record["compressed"]["top1"] for record in made_up]
    ratios = [record["ratios"]["compression_ratio"] for record in made_up]
    assert row["seeds"] == 3
    assert row["top1"] == pytest.approx(statistics.mean(tops))
    assert row["top1_std"] == pytest.approx(statistics.stdev(tops))
    assert row["compression_ratio"] == pytest.approx(statistics.mean(ratios))


def test_one_seed_has_no_spread(frame):
    points = summarise(frame[frame["seed"] == 0], ["top1"])
    assert points["top1_std"].isna().all() and (points["seeds"] == 1).all()
    assert math.isnan(dense_baseline(frame[frame["seed"] == 0], "top1")[1])


def test_a_point_that_some_seeds_did_not_measure_has_no_mean(frame):
    part = frame[frame["method"] == "svd"].copy()
    part.loc[(part["level"] == 8) & (part["seed"] == 1), "speedup_b1"] = np.nan
    points = summarise(part, ["speedup_b1"])
    assert list(points["level"][points["speedup_b1"].isna()]) == [8]


def test_the_dense_model_counts_once_per_seed(frame):
    mean, spread = dense_baseline(frame, "top1")
    assert mean == pytest.approx(statistics.mean([0.970, 0.974, 0.978]))
    assert spread == pytest.approx(statistics.stdev([0.970, 0.974, 0.978]))
    # Seeds with more records weigh no more.
    uneven = frame[(frame["seed"] > 0) | (frame["method"] == "svd")]
    assert dense_baseline(uneven, "top1") == pytest.approx((mean, spread))


def sweep(method, *configs):
    """Records of one method at the levels given, each with its own parts of the config."""
    made_up = []
    for level, config in configs:
        one = records.record(method, 1, 0, **{"method": {"rank": level}, **config})
        made_up.append(one | {"level": level})
    return made_up


def loaded(folder, made_up):
    for one in made_up:
        store.save(one, folder)
    return store.load(folder)


def pruning(pattern="unstructured", sparsity=0.5, compression_ratio=None):
    own = {"sparsity": sparsity, "compression_ratio": compression_ratio, "pattern": pattern}
    return {"method": own}


@pytest.mark.parametrize(
    "configs, text",
    [
        (
            [(0.5, pruning("rows")), (0.5, pruning())],
            r"'magnitude' at level 0.5 differ in method.pattern \(rows, unstructured\), and",
        ),
        (
            [(0.5, pruning("rows")), (0.5, pruning()), (0.9, pruning(sparsity=0.9))],
            r"at level 0.5 differ in method.pattern \(rows, unstructured\)",
        ),
        (
            [(0.5, {"where": {"first": True}}), (0.5, {"where": {"first": False}})],
            r"'magnitude' differ in where.first \(False, True\)",
        ),
        (
            [(0.5, {"where": {"first": True}}), (0.9, {"where": {"first": False}})],
            r"differ in where.first .* Name them apart in the sweep \(method_name=\.\.\.\), sweep",
        ),
        (
            [(0.5, pruning()), (4, pruning(sparsity=None, compression_ratio=4))],
            r"differ in method.sparsity \(given, null\)",
        ),
        (
            [(0.5, {"method": {"steps": [{"b": bits}]}}) for bits in (2, 4)],
            r"at level 0.5 differ in method.steps.0.b \(2, 4\)",
        ),
    ],
)
def test_two_things_by_one_name_are_no_curve(tmp_path, configs, text):
    frame = loaded(tmp_path, sweep("magnitude", *configs))
    with pytest.raises(ValueError, match=text):
        summarise(frame, ["top1"])
    # Under names of their own they are compared.
    named = frame.assign(method=[f"magnitude {number}" for number in range(len(frame))])
    assert len(summarise(named, ["top1"])) == len(frame)


def test_where_and_how_a_point_was_run_makes_no_difference(tmp_path):
    made_up = sweep("svd", (8, {"sweep": "a", "force": True}), (4, {"sweep": "b", "force": False}))
    assert len(summarise(loaded(tmp_path, made_up), ["top1"])) == 2


def test_draws_of_the_calibration_data_are_repetitions_as_seeds_are(tmp_path):
    draws = [records.record("svd", 2, seed) for seed in range(3)]
    for seed, draw in enumerate(draws):
        draw["config"]["task"] = {**draw["config"].get("task", {}), "calibration_seed": seed}
        draw["key"] = store.key(draw["config"])
    row = summarise(loaded(tmp_path, draws), ["top1"]).iloc[0]
    assert row["seeds"] == 3


def test_what_cannot_be_averaged_is_refused(frame):
    twice = pd.concat([frame, frame[frame["method"] == "svd"]], ignore_index=True)
    with pytest.raises(ValueError, match=r"svd at level [0-9.]+ has seed [0-2] more than once"):
        summarise(twice, ["top1"])
    with pytest.raises(
        ValueError, match=r"mix 2 values of 'task' \(digits, mnist\).*frame.task =="
    ):
        summarise(pd.concat([frame, frame.assign(task="mnist")]), ["top1"])
    with pytest.raises(ValueError, match="hold no perplexity: take what they hold (.*top1.*)"):
        summarise(frame, ["perplexity"])
    with pytest.raises(ValueError, match="hold no speedup_b1 of the dense model"):
        dense_baseline(frame, "speedup_b1")
    with pytest.raises(ValueError, match="selection left none"):
        summarise(frame[frame["seed"] > 9], ["top1"])


def test_comparisons_are_named_and_complete(frame):

    both = pd.concat([frame, frame.assign(dense_recovery="finetune")])
    parts = comparisons(both)
    assert sorted(name for name, _ in parts) == ["digits-mlp", "digits-mlp-finetune"]
    assert sum(len(part) for _, part in parts) == len(both)
    (named,) = comparisons(frame.assign(model="me/tiny"))
    assert named[0] == "digits-me--tiny"  # As files, not as folders.


def test_the_measures_of_quality_are_those_that_the_dense_model_has_too(frame, tmp_path):
    found = ["top1", "top5", "macro_recall", "macro_f1", "loss", "flipped", "kl"]
    assert quality_measures(frame) == found
    both = pd.concat([frame, store.load(records.write_texts(tmp_path, 1, ("rtn",)))])
    parts = {name: quality_measures(part) for name, part in comparisons(both)}
    assert parts["digits-mlp"] == found
    assert parts["stories-llama"] == [
        "perplexity",
        "word_perplexity",
        "bits_per_byte",
        "loss",
        "kl",
    ]


def test_comparisons_whose_names_would_be_alike_are_told_apart(frame):
    others = [frame.assign(task="a-b", model="c"), frame.assign(task="a", model="b-c")]
    names = [name for name, _ in comparisons(pd.concat([frame, *others]))]
    assert len(set(names)) == 3 and "digits-mlp" in names


def with_recovery(made_up, name, both, tuned):
    config = made_up["config"] | {"recovery": {"_target_": name}}
    fields = {"recovery": name, "dense_recovery": name if both else "none", "tuned": tuned}
    return made_up | fields | {"config": config, "key": store.key(config)}


def test_a_tuned_model_stands_beside_the_plain_one_under_a_name_of_its_own(tmp_path):
    plain = [records.record("svd", step) for step in range(2)]
    made_up = [*plain, *(with_recovery(one, "tune", False, True) for one in plain)]
    made_up += [with_recovery(one, "finetune", True, True) for one in plain]
    frame = loaded(tmp_path, made_up)
    assert frame.groupby("recovery")["tuned"].first().to_dict() == {
        "none": False,
        "tune": True,
        "finetune": True,
    }
    parts = dict(comparisons(frame))
    together, apart = parts["digits-mlp"], parts["digits-mlp-finetune"]
    assert sorted(together["method"].unique()) == ["svd", "svd + tune"]
    assert list(apart["method"].unique()) == ["svd"]
    assert len(summarise(together, ["top1"])) == 4
    with pytest.raises(ValueError, match="records of method 'svd' differ in recovery._target_"):
        summarise(frame[frame["dense_recovery"] == "none"], ["top1"])


def test_what_only_the_norm_gained_is_shown_without_tuned_models(tmp_path):
    one = records.record("svd", 1)
    tuned = with_recovery(in_norm(one, "full"), "tune", False, True)
    rows = in_several_norms(loaded(tmp_path, [one, in_norm(one, "full"), tuned]))
    assert set(rows["recovery"]) == {"none"} and set(rows["norm"]) == {"identity", "full"}


def test_what_is_a_distance_from_the_dense_model_has_its_dense_value_by_definition(frame):
    for name, value in (("kl", 0.0), ("flipped", 0.0)):
        mean, spread = dense_baseline(frame, name)
        assert mean == value and math.isnan(spread)


def test_a_recovered_dense_model_is_no_distance_from_itself(tmp_path):
    """Records of earlier versions have its distance from the model before the recovery."""
    for seed in range(2):
        made_up = with_recovery(records.record("svd", 1, seed), "finetune", True, True)
        far = {"kl": 0.2, "flipped": 0.05}
        errors = made_up["standard_errors"]
        with_far = {part: errors[part] | {"flipped": 0.01} for part in errors}
        changes = {"dense": made_up["dense"] | far, "standard_errors": with_far}
        store.save(made_up | changes | {"dense_before_recovery": made_up["dense"]}, tmp_path)
    frame = store.load(tmp_path)
    assert frame["flipped_se"].notna().all()
    assert not {"dense_kl", "dense_flipped", "dense_flipped_se", "flipped_change_se"} & {*frame}
    for held in (frame, frame.assign(dense_kl=0.2, dense_flipped=0.05)):
        for name in ("kl", "flipped"):
            mean, spread = dense_baseline(held, name)
            assert mean == 0.0 and math.isnan(spread)
            assert (
                f"Dense model: {measure(held, name).text(0.0)}."
                in summary_table(held, name).caption
            )


def test_one_method_in_two_norms_is_no_curve(tmp_path):
    norms = [{"norm": {"moment": moment}} for moment in ("diagonal", "full")]
    made_up = sweep("svd", (8, norms[0]), (4, norms[1]))
    with pytest.raises(ValueError, match=r"'svd' differ in norm.moment \(diagonal, full\)"):
        summarise(loaded(tmp_path, made_up), ["top1"])


def in_norm(made_up, norm, **settings):
    config = made_up["config"] | {"norm": {"moment": norm, **settings}}
    return made_up | {"config": config, "key": store.key(config), "norm": norm}


def test_a_method_in_several_norms_is_told_apart_and_others_keep_their_names(tmp_path):
    made_up = []
    for step in range(2):
        one = records.record("svd", step)
        made_up += [one, in_norm(one, "full", mode="one-shot")]
        made_up.append(in_norm(one, "full", mode="sequential"))
        # A norm of the whole sweep, not what tells methods apart.
        made_up.append(in_norm(records.record("uniform", step), "full", mode="sequential"))
        made_up.append(records.record("magnitude", step))
        made_up.append(in_norm(records.record("random", step), "diagonal", mode="one-shot"))
        made_up.append(in_norm(records.record("random", step), "diagonal", mode="sequential"))
    frame = loaded(tmp_path, made_up)
    with pytest.raises(ValueError, match="records of method 'random' differ in norm.mode"):
        summarise(frame, ["top1"])
    named = with_distinct_names(frame)
    svds = "svd (full)", "svd (full, sequential)", "svd (identity)"
    randoms = "random (diagonal)", "random (diagonal, sequential)"
    assert dict(named["method"].value_counts()) == {
        name: 2 for name in (*svds, *randoms, "uniform", "magnitude")
    }
    pd.testing.assert_frame_equal(named.drop(columns="method"), frame.drop(columns="method"))
    assert len(summarise(named, ["top1"])) == 14
    pd.testing.assert_frame_equal(with_distinct_names(named), named)


def test_what_was_compressed_in_one_norm_here_and_in_another_there_keeps_its_name(tmp_path):
    one = records.record("svd")
    there = in_norm(one, "full", mode="one-shot") | {"task": "mnist"}
    parts = comparisons(loaded(tmp_path, [one, there]))
    assert [list(part["method"]) for _, part in parts] == [["svd"], ["svd"]]


def test_only_settings_are_named(tmp_path):
    made_up = []
    for bits in (2, 4):
        (one,) = sweep("uniform", (8, {"method": {"bits": bits}}))
        made_up.append(one | {"calibration": {"seconds": bits}})
    with pytest.raises(ValueError) as error:
        summarise(loaded(tmp_path, made_up), ["top1"])
    assert "at level 8 differ in method.bits (2, 4), and would" in str(error.value)


def test_norms_come_from_left_to_right_of_the_table_and_then_by_name():
    assert norms_in_order(["full", "own", "identity", "fisher", "full"]) == [
        *("identity", "full", "fisher", "own")
    ]


def test_families_in_several_norms_are_kept_whole(tmp_path):
    frame = store.load(records.write_texts(tmp_path, 1, ("svd", "rtn", "hqq", "gptq")))
    assert set(in_several_norms(frame)["method"]) == {"rtn", "hqq", "gptq"}
    frame.loc[frame["method"] == "hqq", "allocates"] = True
    assert set(in_several_norms(frame)["method"]) == {"rtn", "gptq"}
    with pytest.raises(ValueError, match=r"more than one norm \(found: identity\)"):
        in_several_norms(frame[frame["norm"] == "identity"])


def test_of_many_fields_that_differ_some_are_named(tmp_path):
    made_up = [
        records.record("svd", 1, method={f"field{i}": f"{part}{'x' * 500}" for i in range(50)})
        for part in range(9)
    ]
    with pytest.raises(
        ValueError, match=r"field0 \(0xxx.*… 5 more\).*; … 46 more, and would"
    ) as error:
        summarise(loaded(tmp_path, made_up), ["top1"])
    assert len(str(error.value)) < 2000
