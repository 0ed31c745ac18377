"""Errors over examples stand beside spreads over seeds, from the outcomes of single examples."""

import json
from dataclasses import replace

import made_outcomes
import made_records as records
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lowrank.metrics.metric import Metric
from lowrank.records import outcomes, store
from lowrank.records.record import Record
from lowrank.reporting import plots
from lowrank.reporting.errors import dense_errors, summarise_with_errors
from lowrank.reporting.examples import MetricValues, errors_of
from lowrank.reporting.tables import long_table, summary_table
from lowrank.statistics.means import interval, interval_of_share

N = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made_up = (made_outcomes.images(one, N) for one in records.records(3, ("magnitude", "svd")))
    return made_outcomes.write(tmp_path_factory.mktemp("runs"), made_up)


@pytest.fixture(scope="module")
def frame(folder):
    return store.load(folder)


def answered(step, part="compressed"):
    """The right answers (n, seeds) to magnitude pruning at a level."""
    made_up = [made_outcomes.images(records.record("magnitude", step, s), N) for s in range(3)]
    return np.stack([getattr(one.outcomes, part)["top1"] for one in made_up], axis=1)


def test_an_error_is_that_of_the_mean_over_networks_of_each_example(frame):
    points = summarise_with_errors(frame, ["top1", "compression_ratio"])
    found = points[points["method"] == "magnitude"].set_index("level")
    for step, level in enumerate((0.5, 0.75, 0.9, 0.95, 0.98)):
        means, row = answered(step).mean(axis=1), found.loc[level]
        assert row["top1_se"] == pytest.approx(stats.sem(means))
        expected = interval_of_share(means.mean(), stats.sem(means), N)
        assert (row["top1_low"], row["top1_high"]) == pytest.approx(expected)
        # Not the spread over seeds, which three networks of one split have by chance.
        assert row["top1_std"] == pytest.approx(np.std(answered(step).mean(axis=0), ddof=1))


def test_the_interval_of_a_rate_that_exceeds_one_holds_the_rate():
    """A recogniser may write more wrong words than there are."""
    rate = Metric("wer", "word error rate", "WER (%)", "percent", average="mean")
    values = np.array([[0.5], [2.0], [2.5], [1.0]])
    error, low, high = errors_of(MetricValues(values, np.ones((4, 1))), rate)
    assert (low, high) == interval(1.5, error, 4) and low < 1.5 < high


def test_a_metric_that_is_no_average_has_no_error(frame):
    points = summarise_with_errors(frame, ["macro_f1", "compression_ratio"])
    assert not [name for name in points if name.startswith("macro_f1_s") and name[-2:] == "se"]


def test_the_dense_model_has_its_own(frame):
    means = answered(0, "dense").mean(axis=1)
    assert dense_errors(frame, "top1")[0] == pytest.approx(stats.sem(means))
    assert np.isnan(dense_errors(frame, "flipped")).all()
    assert f"(se {100 * stats.sem(means):.2f})" in summary_table(frame).caption


def test_what_the_dense_model_has_by_definition_has_no_error(folder, tmp_path):
    """Outcomes of earlier versions hold how far a recovery took each example of it."""
    for path in folder.glob("*.json"):
        record, found = json.loads(path.read_text()), outcomes.of_record(path)
        moved = found.dense | {"flipped": found.compressed["flipped"]}
        store.save(Record(record, replace(found, dense=moved)), tmp_path)
    frame = store.load(tmp_path)
    assert "flipped" in outcomes.of_record(frame["path"][0]).dense
    assert np.isnan(dense_errors(frame, "flipped")).all()
    assert dense_errors(frame, "top1")[0] > 0
    assert "Dense model: 0.00." in summary_table(frame, "flipped").caption


def test_a_replaced_file_is_read_again(folder, tmp_path):
    first = store.load(made_outcomes.write(tmp_path, [made_outcomes.images(records.record(), N)]))
    before = summarise_with_errors(first, ["top1"])["top1_se"][0]
    made_outcomes.write(tmp_path, [made_outcomes.images(records.record(), 4 * N)])
    after = summarise_with_errors(store.load(tmp_path), ["top1"])["top1_se"][0]
    assert after == pytest.approx(before / 2, rel=0.05)


def test_where_outcomes_are_gone_there_is_no_error_and_the_caption_says_so(folder, frame, tmp_path):
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    gone = store.load(tmp_path)
    points = summarise_with_errors(gone, ["top1"])
    assert points["top1_se"].isna().all() and np.isnan(dense_errors(gone, "top1")).all()
    table = summary_table(gone)
    assert "(se" not in table.to_markdown() and "no outcomes of single examples" in table.caption
    some = pd.concat([frame[frame["method"] == "svd"], gone[gone["method"] != "svd"]])
    assert "where outcomes of single examples are on record" in long_table(some).caption


def test_a_damaged_file_is_one_clear_error(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = sorted(tmp_path.glob("*.safetensors"))[0]
    broken.write_bytes(b"no outcomes")
    with pytest.raises(ValueError, match=broken.name):
        summary_table(store.load(tmp_path))


def test_csv_tells_seeds_from_examples(frame):
    values = long_table(frame).values
    for end in ("", "_std", "_se", "_low", "_high"):
        assert values[f"top1{end}"].notna().all()
    assert (values["top1_low"] < values["top1"]).all()
    caption = long_table(frame).caption
    assert "Mean ± sample standard deviation over 3 seeds" in caption
    assert "se: standard error over the examples of the test split, for the same net" in caption


def test_what_learnt_on_which_split_is_in_the_long_table(frame):
    said = frame.assign(
        **{"protocol.chosen_on.norm": "calibration", "protocol.chosen_on.recovery": None}
    )
    assert set(long_table(said).values["learnt_on"]) == {"norm: calibration"}
    assert "learnt_on" not in long_table(frame).values


def test_bands_are_intervals_over_examples_where_every_point_has_one(frame):
    def legend(figure):
        return [text.get_text() for legend in figure.legends for text in legend.get_texts()]

    def top(figure, gid="dense"):
        (line,) = [one for one in figure.axes[0].lines if one.get_gid() == gid]
        bands = figure.axes[0].patches
        return line, bands

    figure = plots.quality_curve(frame)
    assert "95 % interval over test examples; dots: single seeds" in legend(figure)
    assert not [text for text in legend(figure) if "std" in text]
    _, bands = top(figure)
    low, high = dense_errors(frame, "top1")[1:]
    assert bands[0].get_y() == pytest.approx(low)
    assert bands[0].get_height() == pytest.approx(high - low)
    points = summarise_with_errors(frame, ["top1", "compression_ratio"])
    own = points[points["method"] == "magnitude"]
    ends = [
        (path.vertices[:, 1].min(), path.vertices[:, 1].max())
        for collection in figure.axes[0].collections
        for path in collection.get_paths()
    ]
    expected = (own["top1_low"].min(), own["top1_high"].max())
    assert any(end == pytest.approx(expected) for end in ends)
    without = plots.quality_curve(frame.assign(outcomes_file=None))
    assert "± 1 std, 3 seeds" in legend(without)
