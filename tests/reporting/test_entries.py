"""Levels are chosen on the validation split, and bold is all that may be the best."""

import made_outcomes
import made_records as records
import numpy as np
import pandas as pd
import pytest

from lowrank.records import store
from lowrank.reporting.tables import summary_table

N = 200


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    methods = ("magnitude", "uniform", "codebook", "svd")
    made_up = (made_outcomes.images(one, N) for one in records.records(3, methods))
    return store.load(made_outcomes.write(tmp_path_factory.mktemp("runs"), made_up))


def entry(table, method, name):
    return table.values.set_index("method").loc[method, name]


def test_the_level_is_that_of_the_best_validation_value_and_shown_is_its_test_value(frame):
    chosen = frame.copy()
    # The third level is the best on the validation split, and worse than the first on the test one.
    third = (chosen["method"] == "svd") & (chosen["level"] == 8)
    chosen.loc[third, "validation_top1"] = 0.999
    table = summary_table(chosen, steps=(1.5,))
    assert entry(table, "svd", "1.5x_level") == 8
    assert entry(table, "svd", "1.5x") == pytest.approx(chosen["top1"][third].mean())
    assert entry(table, "svd", "1.5x") < chosen["top1"][chosen["method"] == "svd"].max()
    assert entry(table, "svd", "1.5x_chosen_on") == "validation"
    assert "the best on the validation split, by the mean over seeds" in table.caption
    assert "†" not in table.to_markdown()


def test_of_levels_with_equal_values_the_first_is_chosen(frame):
    """As many right answers, in single precision and in double."""
    more, less = sorted((0.7, float(np.float32(0.7))), reverse=True)
    own = frame[frame["method"] == "svd"]
    for values in ((more, less), (less, more)):
        first, second = ({level: value} for level, value in zip((32, 8), values, strict=True))
        alike = own["level"].map({16: 0.1, 4: 0.1, 2: 0.1} | first | second)
        table = summary_table(own.assign(validation_top1=alike), steps=(1.5,))
        assert entry(table, "svd", "1.5x_level") == 32


def test_it_is_the_mean_over_seeds_that_chooses(frame):
    chosen = frame.copy()
    one = (chosen["method"] == "svd") & (chosen["level"] == 8) & (chosen["seed"] == 0)
    chosen.loc[one, "validation_top1"] = 0.999
    assert entry(summary_table(chosen, steps=(1.5,)), "svd", "1.5x_level") == 32


def test_what_was_chosen_on_the_test_split_is_marked(frame):
    lacking = frame.copy()
    row = lacking.index[(lacking["method"] == "svd") & (lacking["level"] == 8)][0]
    lacking.loc[row, "validation_top1"] = np.nan
    table = summary_table(lacking, steps=(1.5, 16, 32))
    assert entry(table, "svd", "1.5x_chosen_on") == "test"
    cells = table.cells.set_index("method")
    assert cells.loc["svd", "1.5×"].endswith("†") and "†" not in cells.loc["codebook", "1.5×"]
    assert "†: of several levels it is the best on the test split itself" in table.caption
    assert r"$\dagger$" in table.to_latex()
    # Two levels that have their values are chosen on the validation split, one is no choice.
    assert entry(table, "svd", "16x_chosen_on") == "validation"
    assert entry(table, "svd", "32x_chosen_on") == ""


def test_a_loss_is_chosen_as_the_least_on_the_validation_split(frame):
    least = frame["validation_loss"].where(frame["level"] != 8, -1.0)
    table = summary_table(frame.assign(validation_loss=least), "loss", steps=(1.5,))
    assert entry(table, "svd", "1.5x_level") == 8


def test_bold_is_what_cannot_be_told_from_the_best(frame):
    table = summary_table(frame, steps=(2,))
    best = dict(zip(table.cells["method"], table.best["2×"], strict=True))
    p = table.values.set_index("method")["2x_p"]
    assert p["codebook"] == 1 or p["uniform"] == 1
    for method in ("magnitude", "svd"):
        assert best[method] == (p[method] >= 0.05)
    assert best["codebook"] and best["uniform"] and not best["svd"] and p["svd"] < 0.001
    assert "cannot be told from the best of the column" in table.caption
    assert "a truly best one is not bold is 5 % at most" in table.caption


def test_more_methods_in_a_column_ask_for_more(frame):
    """Holm's correction: the same two methods, with others beside them."""
    two = summary_table(frame[frame["method"].isin(["uniform", "magnitude"])], steps=(2,))
    four = summary_table(frame, steps=(2,))
    assert entry(four, "magnitude", "2x_p") > entry(two, "magnitude", "2x_p")


def test_without_outcomes_only_the_best_is_bold(frame):
    table = summary_table(frame.assign(outcomes_file=None), steps=(4,))
    bold = table.values.loc[table.best["4×"].to_numpy()]
    assert (bold["4x"] == table.values["4x"].max()).all()
    assert "no outcomes of single examples say what is as good" in table.caption


def test_entries_on_other_test_examples_are_refused(frame, tmp_path):
    others = [
        made_outcomes.images(records.record("lora", 0, s, task={"name": "digits"}), N, first=7)
        for s in range(3)
    ]
    other = store.load(made_outcomes.write(tmp_path, others)).assign(compression_ratio=2.0)
    with pytest.raises(ValueError, match="cannot be paired: 200 and 200, of which 193 are"):
        summary_table(pd.concat([frame, other], ignore_index=True), steps=(2,))
