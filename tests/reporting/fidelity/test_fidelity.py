"""What the average hides: known answers, and the tables from records."""

import dataclasses
import itertools

import made_outcomes
import made_records
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank.records import store
from lowrank.records.companions import OUTCOMES, outcomes_name
from lowrank.records.outcomes import Outcomes, of_record
from lowrank.records.parts import Breakdown, Continuations
from lowrank.records.record import Record
from lowrank.reporting import plots
from lowrank.reporting.fidelity import NotDefined, class_table, fidelity_table, loss_table
from lowrank.reporting.fidelity.answers import (
    agreement,
    agreement_by_confidence,
    calibration,
    changed_answers,
    counted,
    recalls,
)
from lowrank.reporting.fidelity.picked import picked
from lowrank.reporting.fidelity.table import statistics
from lowrank.statistics.means import standard_error


def outcomes(target, dense, compressed, weights=None):
    """Outcomes of a classifier with these classes and answers."""
    target, answers = np.asarray(target), (np.asarray(dense), np.asarray(compressed))
    parts = [
        {
            "predicted": one,
            "confidence": np.linspace(0.5, 1, len(one)),
            "loss": 1.0 - (one == target),
        }
        for one in answers
    ]
    parts[1]["flipped"] = (answers[0] != answers[1]).astype(float)
    weights = np.ones(len(target)) if weights is None else np.asarray(weights, dtype=float)
    return Outcomes(np.arange(len(target)), weights, *parts, target)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for record in made_records.records(2, ("svd", "codebook")):
        store.save(made_records.with_outcomes(record), folder)
    return store.load(folder)


def test_two_swapped_classes_are_seen_though_the_other_eight_are_as_they_were():
    target = np.tile(np.arange(10), 20)
    swapped = np.where(target == 3, 8, np.where(target == 8, 3, target))
    found = outcomes(target, target, swapped)
    answers = changed_answers(found)
    assert answers["right_to_wrong"].value == pytest.approx(0.2)
    assert answers["wrong_to_right"].value == answers["wrong_to_wrong"].value == 0
    changes = {number: one.change.value for number, one in recalls(found).items()}
    assert changes == {number: -1.0 if number in (3, 8) else 0.0 for number in range(10)}


def test_losses_and_gains_that_cancel_are_seen():
    target = np.zeros(100, dtype=int)
    dense, ours = target.copy(), target.copy()
    dense[:10], ours[10:20], dense[20], ours[20] = 1, 1, 1, 2
    answers = changed_answers(outcomes(target, dense, ours))
    shares = [answers[name].value for name in ("right_to_wrong", "wrong_to_right")]
    assert shares == pytest.approx([0.1, 0.1])
    assert answers["wrong_to_wrong"].value == pytest.approx(0.01)


@given(st.integers(2, 80), st.integers(0, 20))
def test_the_parts_add_up_to_what_was_flipped_and_to_the_change_of_accuracy(count, seed):
    random = np.random.default_rng(seed)
    target, dense, ours = random.integers(0, 3, (3, count))
    found = outcomes(target, dense, ours)
    answers = {name: one.value for name, one in changed_answers(found).items()}
    assert sum(answers.values()) == pytest.approx(agreement(found)["flipped"].value)
    change = (ours == target).mean() - (dense == target).mean()
    assert answers["wrong_to_right"] - answers["right_to_wrong"] == pytest.approx(change)
    sizes = {number: (target == number).mean() for number in recalls(found)}
    by_class = sum(sizes[number] * one.change.value for number, one in recalls(found).items())
    assert by_class == pytest.approx(change)


def test_seeds_without_a_class_in_common_have_no_table_of_classes(tmp_path):
    for seed in range(2):
        record = made_records.with_outcomes(made_records.record("svd", 1, seed), 1)
        target = np.array([seed])
        store.save(Record(record, dataclasses.replace(record.outcomes, target=target)), tmp_path)
    frame = store.load(tmp_path)
    assert not {"lowest_recall", "largest_fall"} & set(fidelity_table(frame).values)
    with pytest.raises(ValueError, match="no class occurs among the test examples of all seeds"):
        class_table(frame)


def test_agreement_is_parted_by_the_confidence_of_the_dense_model():
    dense = np.zeros(40, dtype=int)
    ours = dense.copy()
    ours[:5] = 1  # Of those of which the dense model is least confident.
    parts = agreement_by_confidence(outcomes(dense, dense, ours))
    assert [one.value for one in parts] == [0.5, 1, 1, 1]
    with pytest.raises(ValueError, match="more than the 3 examples"):
        agreement_by_confidence(outcomes(*[np.zeros(3, dtype=int)] * 3))


def test_examples_without_predictions_do_not_count():
    target = np.array([0, 0, 0, 1])
    found = counted(outcomes(target, target, [0, 0, 1, 0], weights=[1, 1, 1, 0]))
    assert changed_answers(found)["right_to_wrong"].value == pytest.approx(1 / 3)
    assert set(recalls(found)) == {0}


def test_outcomes_without_classes_are_refused_and_still_say_what_they_can():
    values = {"loss": np.array([1.0, 3.0])}
    plain = Outcomes(np.arange(2), np.array([1.0, 3.0]), values, {"loss": np.array([2.0, 3.0])})
    for function in (changed_answers, calibration, recalls, agreement_by_confidence):
        with pytest.raises(ValueError, match="no class for each example"):
            function(plain)
    assert statistics(plain)["loss_change"].value == pytest.approx(0.25)
    assert list(statistics(plain)) == ["loss_change"]


def test_outcomes_without_confidences_are_refused():
    found = outcomes([0, 1], [0, 1], [0, 1])
    bare = Outcomes(
        found.examples,
        found.weights,
        {"predicted": found.dense["predicted"]},
        {"predicted": found.compressed["predicted"]},
        found.target,
    )
    with pytest.raises(ValueError, match="no 'confidence'"):
        calibration(bare)


def test_the_table_has_each_method_at_the_best_level_on_validation(frame):
    table = fidelity_table(frame, steps=(4,))
    assert sorted(table.cells["method"]) == ["codebook", "svd"]
    for _, row in table.values.iterrows():
        held = frame[(frame["method"] == row["method"]) & (frame["compression_ratio"] >= 4)]
        means = frame[frame["point"].isin(held["point"])].groupby("level")["validation_top1"].mean()
        means = means[frame.groupby("level")["compression_ratio"].mean()[means.index] >= 4]
        assert float(row["level"]) == means.idxmax()
    assert "best on the validation split" in table.caption and "360 examples" in table.caption


def test_the_numbers_of_the_table_are_means_over_the_seeds(frame):
    row = fidelity_table(frame, steps=(4,)).values.set_index("method").loc["svd"]
    of_point = frame[(frame["method"] == "svd") & (frame["level"] == float(row["level"]))]
    own = [statistics(of_record(path)) for path in of_point["path"]]
    assert len(own) == 2
    for name in ("flipped", "right_to_wrong", "ece", "ece_mass", "loss_change"):
        assert row[name] == pytest.approx(np.mean([one[name].value for one in own]))
        assert 0 < row[f"{name}_se"] <= max(one[name].error for one in own) + 1e-12
    assert row["flipped"] == pytest.approx(
        row["right_to_wrong"] + row["wrong_to_right"] + row["wrong_to_wrong"]
    )


def test_the_table_of_classes_holds_what_the_first_table_calls_extreme(frame):
    first = fidelity_table(frame, steps=(4,)).values.set_index("method")
    for method, rows in class_table(frame, steps=(4,)).values.groupby("method"):
        assert len(rows) == 10
        least = rows.loc[rows["compressed"].idxmin()]
        assert least["class"] == first.loc[method, "lowest_recall_class"]
        assert least["compressed"] == pytest.approx(first.loc[method, "lowest_recall"])
        assert -rows["change"].min() == pytest.approx(first.loc[method, "largest_fall"])
        assert first.loc[method, "largest_fall"] > 0


def with_texts(record, prefix):
    """A language model's record whose outcomes hold groups of tokens and continuations."""
    made = made_outcomes.text(record)
    own, count = made.outcomes, len(made.outcomes)
    random = np.random.default_rng(3)
    counts = random.integers(0, 9, (count, 2)).astype(float)
    both = random.random((2, count, 2)) * (counts > 0)
    counts, both = np.pad(counts, ((0, 0), (0, 1))), np.pad(both, ((0, 0), (0, 0), (0, 1)))
    prefix = np.asarray(prefix, dtype=float)
    made.outcomes = dataclasses.replace(
        own,
        breakdowns={"token_rank": Breakdown("rank", ("1–3", "4–15", "not seen"), counts, *both)},
        continuations=Continuations(8, np.arange(len(prefix)), (prefix + 8) / 2, prefix),
    )
    return made


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for step, seed in itertools.product(range(3), range(2)):
        record = made_records.text_record("gptq", step, seed)
        store.save(with_texts(record, [8, 2, 0, 6]), folder)
    return store.load(folder)


def test_losses_of_groups_are_means_over_their_tokens(of_texts):
    table = loss_table(of_texts, steps=(3,))
    (one, *_) = [of_record(path).breakdowns["token_rank"] for path in of_texts["path"]]
    rows = table.values[table.values["method"] == table.values["method"].iloc[0]]
    assert list(rows["group"]) == ["1–3", "4–15"]  # Of the third there are none.
    for group, (_, row) in enumerate(rows.iterrows()):
        weights = one.counts[:, group]
        assert row["share"] == pytest.approx(weights.sum() / one.counts.sum())
        change = one.compressed[:, group] - one.dense[:, group]
        assert row["change"] == pytest.approx(np.average(change, weights=weights))
        assert row["dense"] + row["change"] == pytest.approx(row["compressed"])
        held = weights > 0
        assert row["change_se"] == pytest.approx(standard_error(change[held], weights[held]))
    assert "token_rank: rank" in table.caption
    # A level is there once, however many sizes it is picked for.
    again = loss_table(of_texts, steps=(2, 3)).values
    assert list(again["size"]) == ["2×"] * len(again)
    assert len(again) == 2 * len(again["level"].unique())


def test_shares_of_groups_are_those_of_all_seeds(tmp_path):
    totals = np.zeros(3)
    for seed in range(2):
        made = with_texts(made_records.text_record("gptq", 1, seed), [8, 2])
        one = made.outcomes.breakdowns["token_rank"]
        one = dataclasses.replace(one, counts=one.counts * [1 + 4 * seed, 1, 1])
        made.outcomes = dataclasses.replace(made.outcomes, breakdowns={"token_rank": one})
        totals += one.counts.sum(axis=0)
        store.save(made, tmp_path)
    rows = loss_table(store.load(tmp_path), steps=(1.5,)).values
    assert list(rows["share"]) == pytest.approx(list(totals[:2] / totals.sum()))


def test_rows_of_losses_are_in_the_order_of_the_sizes(tmp_path):
    """Also where one level is picked for the least size and the largest."""
    levels = {"gptq": (0, 1), "magnitude": (1, 2)}
    for method, steps in levels.items():
        for step in steps:
            store.save(with_texts(made_records.text_record(method, step), [8, 2]), tmp_path)
    rows = loss_table(store.load(tmp_path), steps=(1.5, 2.5, 3)).values
    assert list(dict.fromkeys(zip(rows["size"], rows["method"], rows["level"], strict=True))) == [
        ("1.5×", "gptq", "4"),
        ("1.5×", "magnitude", "0.5"),
        ("2.5×", "magnitude", "0.7"),
    ]


def test_continuations_are_means_over_the_prompts(of_texts):
    table = fidelity_table(of_texts, steps=(3,))
    row = table.values.iloc[0]
    assert row["common_prefix"] == 4 and row["equal_tokens"] == pytest.approx(0.75)
    spread = np.std([8, 2, 0, 6], ddof=1) / 2
    assert row["common_prefix_se"] == pytest.approx(spread)
    assert row["equal_tokens_se"] == pytest.approx(spread / 16)
    assert "common prefix (tokens)" in table.cells
    assert "4 test prompts, 8 tokens each" in table.caption
    with pytest.raises(NotDefined, match="no class for each example"):
        class_table(of_texts, steps=(3,))


def test_the_change_of_the_loss_of_each_group_is_drawn(of_texts):
    figure = plots.token_figure(of_record(of_texts["path"].iloc[0]))
    (axes,) = figure.axes
    assert [one.get_text() for one in axes.get_xticklabels()] == ["1–3", "4–15"]
    with pytest.raises(ValueError, match="break no loss down"):
        plots.token_figure(outcomes([0, 1], [0, 1], [0, 1]))


def test_tasks_without_groups_of_tokens_have_no_table_of_them(frame):
    with pytest.raises(NotDefined, match="break no loss down"):
        loss_table(frame, steps=(4,))


def named(config, seed):
    """The fields of a record that name its point."""
    key = store.key(config)
    return {"seed": seed, "config": config, "key": key, OUTCOMES.field: outcomes_name(key)}


def test_seeds_with_the_same_numbers_count_once(tmp_path):
    """A method without randomness on given weights: three seeds are one network."""
    folder = tmp_path / "runs"
    record = made_records.record("svd")
    for seed in range(3):
        config = record["config"] | {"seed": seed}
        again = made_records.with_outcomes(record)
        store.save(Record(again | named(config, seed), again.outcomes), folder)
    frame = store.load(folder)
    assert len(frame) == 3
    points, _ = picked(frame, "top1", "compression_ratio", (1,))
    assert [len(point.outcomes) for point in points] == [1]


def test_methods_that_reach_no_size_have_no_table(frame):
    for table in (fidelity_table, class_table, loss_table):
        with pytest.raises(ValueError, match="no method has a level whose .* is at least a size"):
            table(frame, steps=(1000.0,))


def test_records_without_outcomes_are_refused(tmp_path):
    frame = store.load(made_records.write(tmp_path, 1, ("svd",)))
    with pytest.raises(ValueError, match="names no outcomes of its examples: measure its point"):
        fidelity_table(frame)
