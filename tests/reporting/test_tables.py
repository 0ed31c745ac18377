"""Tables hold the numbers of the records, and nothing that was not measured."""

import csv
import io
import os
import re
import statistics

import made_records as records
import pandas as pd
import pytest

from lowrank.records import store
from lowrank.reporting.curves import comparisons
from lowrank.reporting.table import csv_text
from lowrank.reporting.tables import long_table, summary_table


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return store.load(records.write(tmp_path_factory.mktemp("runs")))


def tops(method, step):
    return [records.record(method, step, seed)["compressed"]["top1"] for seed in range(3)]


def rows(text):
    return {row["method"]: row for row in csv.DictReader(io.StringIO(text))}


def test_an_entry_is_the_best_measured_level_at_the_ratio_or_more(frame):
    table = rows(summary_table(frame).to_csv())
    assert set(table) == set(records.METHODS)
    # SVD's levels lie at 1.92, 3.93, 8.06, 16.5 and 33.9 times.
    for ratio, step in ((2, 1), (4, 2), (8, 2), (16, 3), (32, 4)):
        entry = table["svd"]
        assert float(entry[f"{ratio}x"]) == pytest.approx(statistics.mean(tops("svd", step)))
        assert float(entry[f"{ratio}x_std"]) == pytest.approx(statistics.stdev(tops("svd", step)))
    assert table["uniform"]["16x"] == "" and table["uniform"]["8x"] != ""


def test_a_stronger_level_that_is_better_counts(frame):
    better = frame.copy()
    best = (better["method"] == "svd") & (better["level"] == 2)
    better.loc[best, ["top1", "validation_top1"]] = 0.99
    table = rows(summary_table(better).to_csv())
    entries = [float(table["svd"][f"{ratio}x"]) for ratio in (2, 4, 8, 16, 32)]
    assert entries == pytest.approx([0.99] * 5)


def test_ratios_that_nothing_reaches_have_no_column(frame):
    weak = frame[frame["compression_ratio"] < 5]
    assert list(summary_table(weak).cells.columns) == ["method", "1.5×", "2×"]


def test_a_loss_is_best_when_least(frame):
    table = summary_table(frame, "loss", steps=(8,))
    made_up = [records.record("prune_then_quantize", 2, seed) for seed in range(3)]
    least = statistics.mean(record["compressed"]["loss"] for record in made_up)
    assert float(rows(table.to_csv())["prune_then_quantize"]["8x"]) == pytest.approx(least)
    assert f"**{least:.3f} ± " in table.to_markdown()


def test_markdown_has_percent_spread_dash_and_the_best_in_bold(frame):
    text = summary_table(frame, steps=(2, 4, 8, 16, 32)).to_markdown()
    mean, spread = statistics.mean(tops("svd", 2)), statistics.stdev(tops("svd", 2))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:1] == "|"}
    cells = [cell.strip() for cell in lines["svd"].split("|")[2:-1]]
    assert cells[2] == f"{100 * mean:.2f} ± {100 * spread:.2f}" == "74.90 ± 1.44"
    assert [cell.strip() for cell in lines["lora"].split("|")[2:-1]] == ["–"] * 5
    bold = [name for name, line in lines.items() if "**" in line]
    assert sorted(bold) == ["codebook", "prune_then_quantize"]


def test_the_caption_says_what_how_and_how_often(frame):
    caption = summary_table(frame).caption
    assert "digits, mlp, without recovery: top-1 accuracy (test split) in %" in caption
    assert "is at least that of the column" in caption and "over 3 seeds" in caption
    assert "Dense model: 97.40 ± 0.40." in caption
    parted = summary_table(frame.assign(dense_whole_test_top1=frame["dense_top1"] - 0.01)).caption
    assert (
        "97.40 ± 0.40; with the part of the test data that is validation: 96.40 ± 0.40." in parted
    )
    uneven = frame[(frame["method"] != "svd") | (frame["seed"] < 1)].assign(
        recovery="finetune", dense_recovery="finetune"
    )
    assert "over 1 to 3 seeds" in summary_table(uneven).caption
    assert "after finetune" in summary_table(uneven).caption
    one = summary_table(frame[frame["seed"] == 0])
    assert "One seed, so no spread" in one.caption
    assert "±" not in one.to_markdown()


def test_the_caption_tells_tuned_from_corrected_and_from_trained(frame):
    part = frame[frame["method"] == "svd"]
    tuned = part.assign(method="svd + tune", recovery="tune", tuned=True)
    shifted = part.assign(method="svd + shift", recovery="shift", tuned=False)
    table = summary_table(pd.concat([part, tuned, shifted], ignore_index=True))
    start = "digits, mlp, without recovery (“+ shift”: corrected on calibration data, the dense "
    end = "; “+ tune”: tuned on calibration data toward the dense model, which is left as it is): "
    assert table.caption.startswith(start) and end in table.caption
    assert "(``+ shift'': corrected" in table.to_latex()


def test_latex_is_a_booktabs_table_with_nothing_left_unescaped(frame):
    text = summary_table(frame, steps=(2, 4, 8, 16, 32)).to_latex()
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert r"magnitude\_global & 95.60 +- 0.87" in text
    assert r"& \bfseries 97.05 +- 0.40 &" in text and r"& {--} &" in text
    assert r"{2$\times$}" in text and r"in \%" in text
    assert text.count("S[table-format=2.2(") == 5
    assert not set(text) & set("±×–")
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == len(records.METHODS) + 1
    assert {line.count(" & ") for line in body} == {5}


def test_the_long_table_has_every_point(frame):
    table = long_table(frame)
    entries = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert len(entries) == len(records.METHODS) * 5
    (entry,) = [row for row in entries if (row["method"], row["level"]) == ("n_m", "1.5")]
    made_up = [records.record("n_m", 2, seed) for seed in range(3)]
    for part, name in (("ratios", "param_ratio"), ("compressed", "flipped"), ("compressed", "kl")):
        values = [record[part][name] for record in made_up]
        assert float(entry[name]) == pytest.approx(statistics.mean(values))
        assert float(entry[f"{name}_std"]) == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert entry["seeds"] == "3"
    own = frame[(frame["method"] == "n_m") & (frame["level"] == 1.5)]
    assert float(entry["validation_top1"]) == pytest.approx(own["validation_top1"].mean())
    assert not [name for name in table.cells if "validation" in name]
    assert "batch 1, cpu, 1 thread, float32" in table.caption
    assert table.to_latex().count(r"\\") == len(entries) + 1


def test_what_was_not_measured_has_no_column(frame):
    without = frame.drop(columns=["speedup_b1"]).assign(theoretical_speedup=float("nan"))
    header = long_table(without).to_markdown().splitlines()[2]
    assert "speedup" not in header and "top-1 (%)" in header


def test_saved_as_csv_markdown_and_latex(frame, tmp_path):
    table = summary_table(frame)
    paths = table.save(tmp_path / "new" / "table")
    assert [path.name for path in paths] == ["table.csv", "table.md", "table.tex"]
    assert [path.read_text() for path in paths] == [
        table.to_csv(),
        table.to_markdown(),
        table.to_latex(),
    ]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return store.load(records.write_texts(tmp_path_factory.mktemp("texts")))


def test_against_bits_an_entry_has_at_most_those_of_the_column(texts):
    table = summary_table(texts, "perplexity", "layers_bits_per_weight")
    assert list(table.cells)[1:] == [f"{bits} bits" for bits in (16, 10, 8, 6, 5, 4, 3)]
    entries = rows(table.to_csv())
    for method, (_, _, sizes, perplexities) in records.CELLS.items():
        for bits in (16, 10, 8, 6, 5, 4, 3):
            pairs = zip(sizes.values(), perplexities, strict=True)
            least = min((y for x, y in pairs if x <= bits), default=None)
            entry = entries[method][f"{bits} bits"]
            assert entry == "" if least is None else float(entry) == pytest.approx(least)
    bold = [line for line in table.to_markdown().splitlines() if "**" in line]
    assert len(bold) == 1 and bold[0].startswith("| gptq")
    assert (
        "whose bits per weight (compressed layers, all stored bits / weights) is at most that"
        in (table.caption)
    )


def test_columns_of_fewer_bits_than_any_has_are_left_out(texts):
    large = texts[texts["layers_bits_per_weight"] > 5.5]
    assert list(summary_table(large, "perplexity", "layers_bits_per_weight").cells)[1:] == [
        *("16 bits", "10 bits", "8 bits", "6 bits")
    ]


def test_what_is_no_size_has_no_columns(texts):
    with pytest.raises(ValueError, match="size='loss' has no columns .* layers_bits_per_weight"):
        summary_table(texts, "perplexity", "loss")


@pytest.mark.parametrize("name", ["level", "method", "norm", "point"])
def test_what_names_a_point_is_no_size(texts, name):
    with pytest.raises(ValueError, match=f"{name} is no measure: it names a point"):
        summary_table(texts, "perplexity", name)


def test_the_long_table_names_norms_and_begins_with_the_size(texts):
    table = long_table(texts, "layers_bits_per_weight")
    assert list(table.cells)[:5] == [
        *("method", "norm", "level", "bits per weight", "compression ratio")
    ]
    assert "First: bits per weight (compressed layers" in table.caption
    assert r"\begin{tabular}{lllS[table-format=2.2]S" in table.to_latex()
    entries = {(row["method"], float(row["level"])): row for row in table.values.to_dict("records")}
    assert entries["gptq", 3]["norm"] == "full"
    assert entries["gptq", 3]["perplexity"] == pytest.approx(7.869)
    assert entries["gptq", 3]["layers_bits_per_weight"] == pytest.approx(3.31)
    # Where all is in one norm, and the size is the first column anyhow, nothing is added.
    one = long_table(texts[texts["norm"] == "full"])
    assert list(one.cells)[:3] == ["method", "level", "compression ratio"]


HOSTILE = [
    "=HYPERLINK(1)",
    "+1",
    "-2+3",
    "@SUM(A1)",
    "a|b",
    "<script>x</script>",
    "[link](javascript:x)",
    "![image](http://x)",
    "`code`",
    "\\input{x}",
    "$\\write18{x}$",
    "x^^5cy",
    "a & b % c # d _ e ~",
    "{}}{",
    "[1cm]",
    "*",
    "a\nb",
]


@pytest.fixture(scope="module")
def hostile(frame):
    parts = [
        frame[(frame["method"] == "svd") & (frame["seed"] == 0)].assign(method=name)
        for name in HOSTILE
    ]
    return pd.concat(parts, ignore_index=True).assign(task="<b>&$x$|\\y", model="=m")


def test_no_name_is_a_formula(hostile):
    entries = list(csv.DictReader(io.StringIO(summary_table(hostile).to_csv())))
    assert {entry["method"].removeprefix("'") for entry in entries} == set(HOSTILE)
    for entry in entries:
        for cell in entry.values():
            assert not cell.startswith(("=", "+", "@")) and not cell.startswith("-")
    # Numbers below zero stay numbers.
    assert csv_text(pd.DataFrame({"x": [-1.5], "=y": ["z"]})) == "x,'=y\n-1.5,z\n"


def test_no_name_is_markup(hostile):
    text = summary_table(hostile).to_markdown()
    rows = text.split("\n\n", 1)[1].strip().splitlines()
    assert len(rows) == len(HOSTILE) + 2
    for row in rows:
        plain = row.replace("\\\\", "").replace("**", "")
        bars = [i for i, sign in enumerate(plain) if sign == "|" and plain[i - 1 : i] != "\\"]
        assert len(bars) == rows[1].count("|")
        for sign in "<>`[]$&*":
            assert all(plain[i - 1] == "\\" for i, one in enumerate(plain) if one == sign), row
    assert text.startswith("\\<b\\>\\&\\$x\\$\\|\\\\y, =m, without recovery")


def test_no_name_is_a_command_of_latex(hostile):
    table = summary_table(hostile)
    text = table.to_latex()
    for name in (r"\textbackslash{}input\{x\}", r"\$\textbackslash{}write18\{x\}\$", r"{[}1cm{]}"):
        assert name in text
    assert "^^" not in text and r"a \& b \% c \# d \_ e \textasciitilde{}" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == len(HOSTILE) + 1
    unescaped = len(re.findall(r"(?<!\\)&", text))
    assert unescaped == len(body) * (table.cells.shape[1] - 1)
    # Braces that are not shown are balanced.
    braces = re.sub(r"\\[{}]", "", text)
    assert braces.count("{") == braces.count("}")


def test_a_file_that_cannot_be_finished_leaves_the_last(frame, tmp_path, monkeypatch):
    table = summary_table(frame)
    paths = table.save(tmp_path / "table")
    before = [path.read_bytes() for path in paths]
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        summary_table(frame, "loss").save(tmp_path / "table")
    assert [path.read_bytes() for path in paths] == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_a_point_without_a_speedup_has_a_dash_and_no_column_is_claimed(frame):
    runs_dense = frame["method"] == "uniform"
    part = frame.assign(speedup_b1=frame["speedup_b1"].mask(runs_dense))
    table = long_table(part)
    cells = table.cells.set_index("method")["speedup, batch 1"]
    assert set(cells["uniform"]) == {"–"} and "–" not in set(cells["svd"])
    assert table.values.set_index("method").loc["uniform", "speedup_b1"].isna().all()
    assert "– where every compressed layer runs as dense" in table.caption
    # All dashes where all were timed, and no column where none was.
    none = long_table(frame.assign(speedup_b1=float("nan")))
    assert set(none.cells["speedup, batch 1"]) == {"–"}
    untimed = frame.assign(speedup_b1=float("nan"), latency_b1_s=float("nan"))
    assert "speedup, batch 1" not in long_table(untimed).cells


def test_against_a_size_that_some_lack_columns_reach_as_far_as_the_others(frame):
    part = frame.assign(speedup_b1=frame["speedup_b1"].mask(frame["method"] == "uniform"))
    table = summary_table(part, size="speedup_b1")
    assert list(table.cells)[1:] == list(summary_table(frame, size="speedup_b1").cells)[1:]
    assert len(list(table.cells)) > 2


def test_any_ratio_can_come_first(frame):
    for size in ("trainable_params", "layers_param_ratio", "speedup_b64"):
        table = long_table(frame.assign(trainable_params=1000.0), size)
        assert list(table.values)[3] == size and "First: " in table.caption


def test_beside_a_language_model_images_are_still_examples(frame, texts):
    for _, part in comparisons(pd.concat([frame, texts], ignore_index=True)):
        one = "token" if part["task"].iloc[0] == "stories" else "example"
        assert f"KL(dense ‖ compressed) (test split, nats per {one})" in long_table(part).caption


def test_what_is_no_number_has_no_mean(frame):
    for column in ("model", "path"):
        with pytest.raises(ValueError, match=f"{column} is no measure: the records hold texts"):
            summary_table(frame, size=column)
