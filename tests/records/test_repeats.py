"""Repetitions that repeat nothing count once, and tables and figures say so."""

import math
import statistics

import made_records as records
import pandas as pd
import pytest

from lowrank.records import store
from lowrank.records.companions import EXPORTED, OF_EXPORT
from lowrank.records.repeats import of_their_own, outcome_numbers
from lowrank.reporting import plots
from lowrank.reporting.captions import over_seeds, same_numbers
from lowrank.reporting.curves import dense_baseline, summarise
from lowrank.reporting.norm_table import norm_table
from lowrank.reporting.tables import long_table, summary_table


def alike(method, step, seed, latency=1.0):
    """A record of a seed by which nothing was drawn: only times differ."""
    made_up = records.record(method, step, 0)
    config = made_up["config"] | {"seed": seed, "task": made_up["config"]["task"] | {"seed": seed}}
    times = [one | {"speedup": one["speedup"] * latency} for one in made_up["latency"]]
    return made_up | {"key": store.key(config), "config": config, "seed": seed, "latency": times}


def loaded(folder, made_up):
    for one in made_up:
        store.save(one, folder)
    return store.load(folder)


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    """Three seeds that gave the same, twice."""
    made_up = [alike("svd", step, seed, 1 + seed / 10) for step in (1, 2) for seed in range(3)]
    return loaded(tmp_path_factory.mktemp("same"), made_up)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A method that draws by the seed, and one that does not, on one dense model."""
    drawn = []
    for seed in range(3):
        one = alike("magnitude", 1, seed)
        drawn.append(one | {"compressed": one["compressed"] | {"top1": 0.9 + 0.01 * seed**2}})
    return loaded(tmp_path_factory.mktemp("mixed"), drawn + [alike("svd", 1, s) for s in range(3)])


def test_the_same_numbers_count_once_and_have_no_spread(same):
    points = summarise(same, ["top1", "speedup_b1"])
    assert list(points["seeds"]) == [1, 1] and list(points["repeats"]) == [3, 3]
    assert points["top1_std"].isna().all() and points["compression_ratio_std"].isna().all()
    assert list(points["top1"]) == [records.record("svd", s)["compressed"]["top1"] for s in (1, 2)]
    mean, spread = dense_baseline(same, "top1")
    assert mean == 0.970 and math.isnan(spread)


def test_times_are_measured_anew_in_every_run(same):
    points = summarise(same, ["top1", "speedup_b1"])
    first = records.record("svd", 1)["latency"][0]["speedup"]
    speedups = [first * factor for factor in (1.0, 1.1, 1.2)]
    assert points["speedup_b1"][0] == pytest.approx(statistics.mean(speedups))
    assert points["speedup_b1_std"][0] == pytest.approx(statistics.stdev(speedups))


def exported(made_up):
    """The record with an export, whose folder is named by the point."""
    values = f"{made_up['key']}-{'0' * 16}.gguf", "gguf", 1000, 0
    return made_up | dict(zip(OF_EXPORT, values, strict=True))


def test_what_the_folder_of_an_export_is_called_is_no_outcome(tmp_path):
    frame = loaded(tmp_path, [exported(alike("svd", 1, seed)) for seed in range(5)])
    assert frame[EXPORTED.field].nunique() == 5
    assert len(of_their_own(frame)) == 1 and set(outcome_numbers(frame).values()) == {0}
    (point,) = summarise(frame, ["top1"]).to_dict("records")
    assert (point["seeds"], point["repeats"]) == (1, 5) and math.isnan(point["top1_std"])


def test_of_equal_repetitions_one_may_have_kept_its_export(tmp_path):
    made_up = [exported(alike("svd", 1, 0)), alike("svd", 1, 1)]
    assert len(of_their_own(loaded(tmp_path, made_up))) == 1


def test_each_point_tells_its_own_truth(mixed):
    points = summarise(mixed, ["top1"]).set_index("method")
    assert dict(points["seeds"]) == {"magnitude": 3, "svd": 1}
    assert points.at["magnitude", "top1_std"] == pytest.approx(statistics.stdev([0.9, 0.91, 0.94]))
    assert math.isnan(points.at["svd", "top1_std"])


def test_of_repetitions_some_may_be_the_same(tmp_path):
    # Two draws of the calibration data, each under three seeds that draw nothing.
    made_up = []
    for draw in range(2):
        for seed in range(3):
            one = alike("svd", 1, seed)
            task = one["config"]["task"] | {"calibration_seed": draw}
            config = one["config"] | {"task": task}
            top1 = {"top1": 0.8 + 0.1 * draw}
            one |= {"config": config, "compressed": one["compressed"] | top1}
            made_up.append(one | {"key": store.key(config)})
    (point,) = summarise(loaded(tmp_path, made_up), ["top1"]).to_dict("records")
    assert (point["seeds"], point["repeats"]) == (2, 6)
    assert point["top1"] == pytest.approx(0.85)
    assert point["top1_std"] == pytest.approx(statistics.stdev([0.8, 0.9]))


def test_one_measure_that_differs_makes_them_two(tmp_path):
    one, two = alike("svd", 1, 0), alike("svd", 1, 1)
    two["layers"] = one["layers"]
    two["compressed"] = two["compressed"] | {"loss": two["compressed"]["loss"] + 1e-12}
    (point,) = summarise(loaded(tmp_path, [one, two]), ["top1"]).to_dict("records")
    assert point["seeds"] == 2 and point["top1_std"] == 0  # Measured to be the same.


def test_a_record_is_the_same_as_itself_alone(tmp_path):
    (point,) = summarise(loaded(tmp_path, [alike("svd", 1, 4)]), ["top1"]).to_dict("records")
    assert (point["seeds"], point["repeats"]) == (1, 1)


def test_points_without_a_level_are_points_too(tmp_path):
    made_up = [
        alike(m, s, seed) | {"level": None} for m in ("svd", "n_m") for s, seed in ((1, 0), (1, 1))
    ]
    points = summarise(loaded(tmp_path, made_up), ["top1", "speedup_b1"])
    assert len(points) == 2 and points["top1"].notna().all() and points["speedup_b1"].notna().all()
    assert list(points["repeats"]) == [2, 2]


def test_tables_say_it(same, mixed):
    text = summary_table(same).to_markdown()
    assert "3 seeds gave the same numbers: counted once." in text and "±" not in text
    points = long_table(same)
    assert list(points.cells["seeds"]) == ["1 of 3"] * 2
    assert "±" not in "".join(points.cells["top-1 (%)"]) and "but for times" in points.caption
    assert all("±" in cell for cell in points.cells["speedup, batch 1"])
    both = summary_table(mixed)
    assert "Mean ± sample standard deviation over 3 seeds." in both.caption
    assert "3 seeds gave the same numbers: counted once at 1 of 2 points." in both.caption
    assert list(long_table(mixed).cells["seeds"]) == ["1 of 3", "3"]
    assert ["±" in cell for cell in both.cells["1.5×"]] == [False, True]


def test_the_table_of_norms_says_it(tmp_path):
    made_up = []
    for method in ("rtn", "gptq"):
        for seed in range(2):
            one = records.text_record(method, 0, 0)
            config = one["config"] | {"seed": seed}
            made_up.append(one | {"config": config, "key": store.key(config), "seed": seed})
    table = norm_table(loaded(tmp_path, made_up))
    assert "2 seeds gave the same numbers: counted once." in table.caption
    assert "±" not in "".join(table.cells.iloc[0])


def test_figures_say_it_and_draw_no_band(same, mixed):
    def legend(figure):
        found = figure.legends[0]
        return found.get_title().get_text(), [text.get_text() for text in found.get_texts()]

    note, texts = legend(plots.quality_curve(same))
    assert "3 seeds gave the same numbers: counted once" in " ".join(note.split())
    assert not [text for text in texts if "std" in text]
    note, texts = legend(plots.quality_curve(mixed))
    assert "counted once at 1 of 2 points" in " ".join(note.split())
    assert "± 1 std, 1 to 3 seeds" in texts


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([(3, 3), (3, 3)], "Mean ± sample standard deviation over 3 seeds."),
        ([(1, 1), (3, 3)], "Mean ± sample standard deviation over 1 to 3 seeds."),
        ([(1, 1)], "One seed, so no spread."),
        ([(1, 3)], "3 seeds gave the same numbers: counted once."),
        ([(1, 3), (1, 2)], "2 to 3 seeds gave the same numbers: counted once."),
        (
            [(1, 1), (1, 3)],
            "One seed, so no spread. 3 seeds gave the same numbers: counted once at 1 of 2 points.",
        ),
        (
            [(2, 6)],
            "Mean ± sample standard deviation over 2 seeds. 6 seeds gave the same numbers: counted "
            "once.",
        ),
    ],
)
def test_what_is_said_of_seeds(counts, text):
    points = pd.DataFrame(counts, columns=["seeds", "repeats"])
    assert over_seeds(points) == text
    assert same_numbers(points[points["seeds"] == points["repeats"]]) == ""
