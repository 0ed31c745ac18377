"""Tables hold the numbers of the records, and nothing that was not measured."""

import csv
import io
import statistics

import pandas as pd
import pytest
import records

from lowrank import results
from lowrank.tables import long_table, summary_table


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return results.load(records.write(tmp_path_factory.mktemp("runs")))


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
    better.loc[(better["method"] == "svd") & (better["level"] == 2), "top1"] = 0.99
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
    assert "Dense model: 97.40 ± 0.40" in caption
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
    assert r"magnitude\_global & 95.60 $\pm$ 0.87" in text
    assert r"\textbf{97.05 $\pm$ 0.40}" in text
    assert r"2$\times$" in text and r"in \%" in text
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
    return results.load(records.write_texts(tmp_path_factory.mktemp("texts")))


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


def test_the_long_table_names_norms_and_begins_with_the_size(texts):
    table = long_table(texts, "layers_bits_per_weight")
    assert list(table.cells)[:5] == [
        *("method", "norm", "level", "bits per weight", "compression ratio")
    ]
    assert "First: bits per weight (compressed layers" in table.caption
    assert r"\begin{tabular}{lllrr" in table.to_latex()
    entries = {(row["method"], float(row["level"])): row for row in table.values.to_dict("records")}
    assert entries["gptq", 3]["norm"] == "full"
    assert entries["gptq", 3]["perplexity"] == pytest.approx(7.869)
    assert entries["gptq", 3]["layers_bits_per_weight"] == pytest.approx(3.31)
    # Where all is in one norm, and the size is the first column anyhow, nothing is added.
    one = long_table(texts[texts["norm"] == "full"])
    assert list(one.cells)[:3] == ["method", "level", "compression ratio"]
