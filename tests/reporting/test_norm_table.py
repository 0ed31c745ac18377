"""The table of methods by norms holds the records' numbers, and says where a row gets worse."""

import csv
import io
import json
import math

import made_outcomes
import made_records as records
import numpy as np
import pandas as pd
import pytest

from lowrank.records import store
from lowrank.reporting.norm_table import norm_table
from lowrank.reporting.plots import norm_figure
from lowrank.reporting.tables import long_table


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return store.load(records.write_texts(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def nine(frame):
    return frame[frame["method"].isin(records.NINE)]


def rows(table):
    entries = csv.DictReader(io.StringIO(table.to_csv()))
    return {(row["family"], float(row["level"])): row for row in entries}


def test_an_entry_is_the_record_of_its_family_level_and_norm(nine):
    table = rows(norm_table(nine))
    for method in records.NINE:
        family, norm, sizes, perplexities = records.CELLS[method]
        for (level, bits), perplexity in zip(sizes.items(), perplexities, strict=True):
            row = table[family, level]
            assert float(row[norm]) == pytest.approx(perplexity)
            assert float(row[f"{norm}_layers_bits_per_weight"]) == pytest.approx(bits)
            assert row[f"{norm}_method"] == method
            assert row[f"{norm}_std"] == ""
    assert len(table) == 9


def test_rows_go_from_weak_to_strong_whatever_the_level_means(nine):
    assert [key for key in rows(norm_table(nine)) if key[0] != "low rank"] == [
        *(("quantized", level) for level in (4, 3, 2)),
        *(("sparse", level) for level in (0.3, 0.5, 0.7)),
    ]


def test_a_row_that_does_not_improve_is_marked_and_the_best_is_bold(nine):
    table = norm_table(nine)
    marks = {key: row["improves"] for key, row in rows(table).items()}
    assert [key for key, mark in marks.items() if mark != "True"] == [("sparse", 0.3)]
    lines = {}
    for line in table.to_markdown().splitlines()[4:]:
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        lines[cells[0], float(cells[1])] = cells[2:]
    assert lines["sparse", 0.3] == ["7.100", "**5.600**", "5.800", "12.20", "no: full"]
    assert lines["quantized", 2] == ["900.0", "310.0", "**120.0**", "2.31–2.58", "yes"]
    assert {sum(cell.startswith("**") for cell in cells) for cells in lines.values()} == {1}


@pytest.mark.parametrize(
    ("tops", "improves"),
    [
        ((0.7, 0.8, 0.9), "yes"),
        ((0.7, 0.7, 0.7), "yes"),
        ((0.7, 0.6, 0.65), "no: diagonal, full"),
        ((0.9, 0.6, 0.95), "no: diagonal"),
        ((0.7, math.nan, 0.6), "no: full"),
        ((0.7, math.nan, 0.8), "yes"),
        # As many right answers, in single precision and in double.
        ((0.7, float(np.float32(0.7)), 0.7), "yes"),
        ((float(np.float32(0.7)), 0.7 - 1e-8, 0.8), "yes"),
        ((0.7, 0.6999, 0.8), "no: diagonal"),
    ],
)
def test_of_an_accuracy_more_is_an_improvement(nine, tops, improves):
    methods = dict(zip(("magnitude", "wanda", "sparsegpt"), tops, strict=True))
    row = nine[(nine["level"] == 0.5)].copy()
    row["top1"] = [methods[name] for name in row["method"]]
    row["dense_top1"] = 0.97
    row["metrics"] = json.dumps(records.METRICS)
    table = norm_table(row, "top1", "compression_ratio")
    (cells,) = table.cells.to_dict("records")
    assert cells["improves"] == improves
    best = max(top for top in tops if top == top) - 1e-6
    assert [cells[norm] for norm in ("identity", "full")] == [
        f"{100 * top:.2f}" for top in (tops[0], tops[2])
    ]
    expected = [top >= best for top in tops if top == top]
    shown = [norm for norm in ("identity", "diagonal", "full") if norm in table.best]
    assert list(table.best[shown].iloc[0]) == expected


def test_methods_that_share_a_cell_are_named_and_the_best_is_shown(frame):
    table = norm_table(frame)
    cells = table.cells.set_index(["family", "level"])
    assert cells.at[("quantized", "3"), "identity"] == "9.220 (hqq)"
    assert cells.at[("quantized", "4"), "identity"] == "5.241 (rtn)"
    assert cells.at[("quantized", "4"), "full"] == "5.085"
    # Another norm stands apart: its column makes no row better or worse.
    assert list(table.cells)[2:6] == ["identity", "diagonal", "full", "fisher"]
    assert cells.at[("low rank", "1.25"), "fisher"] == "170.0"
    assert cells.at[("low rank", "1.25"), "improves"] == "yes"
    assert cells.at[("sparse", "0.5"), "fisher"] == "–"


def test_of_methods_that_share_a_cell_validation_chooses_and_the_test_value_is_shown(frame):
    """HQQ is better on the test split at 3 bits, and round to nearest on the validation split."""
    three = (frame["family"] == "quantized") & (frame["level"] == 3)
    validated = frame["perplexity"].mask(three & (frame["method"] == "rtn"), 1.0)
    table = norm_table(frame.assign(validation_perplexity=validated))
    row = rows(table)["quantized", 3]
    assert (row["identity_method"], row["identity_chosen_on"]) == ("rtn", "validation")
    assert float(row["identity"]) == pytest.approx(11.28, rel=0.05) and row["full_chosen_on"] == ""
    assert "†" not in table.to_markdown()
    lacking = norm_table(frame.assign(validation_perplexity=math.nan))
    row = rows(lacking)["quantized", 3]
    assert (row["identity_method"], row["identity_chosen_on"]) == ("hqq", "test")
    assert "9.220 (hqq) †" in lacking.to_markdown()
    assert "†: of several methods it is the best on the test split itself" in lacking.caption


def test_with_outcomes_entries_have_intervals_and_bold_is_what_cannot_be_told_apart(tmp_path):
    made_up = [
        made_outcomes.text(records.text_record(method, step))
        for method in ("rtn", "gptq")
        for step in range(3)
    ]
    table = norm_table(store.load(made_outcomes.write(tmp_path, made_up)))
    values = table.values
    for norm in ("identity", "full"):
        inside = values[f"{norm}_low"].lt(values[norm]) & values[norm].lt(values[f"{norm}_high"])
        assert inside.all() and (values[f"{norm}_se"] > 0).all()
        assert (table.best[norm].to_numpy() == (values[f"{norm}_p"] >= 0.05)).all()
    assert "(se " in table.cells["full"].iloc[0]
    assert "cannot be told from the best of the row" in table.caption


def test_seeds_are_averaged_before_they_are_compared(tmp_path):
    frame = store.load(records.write_texts(tmp_path, 3, ("rtn", "gptq")))
    row = rows(norm_table(frame))["quantized", 3]
    assert float(row["identity"]) == pytest.approx(11.504 * 1.02)
    assert float(row["full_std"]) == pytest.approx(7.869 * 0.02)
    assert "over 3 seeds" in norm_table(frame).caption


def test_the_caption_says_what_is_shown_and_latex_has_two_names_first(nine):
    table = norm_table(nine)
    assert "stories, llama, without recovery: perplexity (test split, per token)" in table.caption
    assert "bits per weight (compressed layers" in table.caption
    assert "Dense model: 4.756." in table.caption
    text = table.to_latex()
    assert r"\begin{tabular}{llS[table-format=" in text and r"{2.31--2.58}" in text
    assert not set(text) & set("±×–")


def test_the_caption_explains_no_recovery_that_no_entry_had(nine):
    tuned = nine[nine["method"] == "gptq"].assign(
        method="gptq + tune", recovery="tune", dense_recovery="none", tuned=True
    )
    both = pd.concat([nine, tuned], ignore_index=True)
    assert "“+ tune”" in long_table(both, "layers_bits_per_weight").caption
    assert norm_table(both).caption == norm_table(nine).caption
    assert norm_table(both).to_csv() == norm_table(nine).to_csv()


def test_what_has_one_norm_only_is_left_out_or_refused(frame, nine):
    part = nine[(nine["family"] != "sparse") | (nine["norm"] == "identity")]
    assert {family for family, _ in rows(norm_table(part))} == {"low rank", "quantized"}
    with pytest.raises(ValueError, match=r"in more than one norm \(found: full\)"):
        norm_table(frame[frame["norm"] == "full"])
    with pytest.raises(ValueError, match=r"in more than one norm \(found: full\)"):
        norm_figure(frame[frame["norm"] == "full"])
    apart = nine[
        (nine["method"] == "rtn") & (nine["level"] > 3)
        | (nine["method"] == "gptq") & (nine["level"] < 4)
    ]
    with pytest.raises(ValueError, match="in two norms at one level: sweep the methods"):
        norm_table(apart)
    with pytest.raises(ValueError, match="hold no cosine"):
        norm_table(nine, "cosine")
