"""Several tasks on one base: what is stored once, and from how many tasks on that pays."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tasks import COUNT, TASKS, every, made, right

from lowrank.records import store
from lowrank.reporting.across_tasks import Competitor, contest, scores, set_against, tables
from lowrank.reporting.across_tasks import pays as saving
from lowrank.reporting.plots import tasks_figure
from lowrank.statistics.estimates import averaged, weighted_mean


@pytest.fixture
def frame(tmp_path):
    return written(tmp_path, every())


def written(folder, records):
    for record in records:
        store.save(record, folder)
    return store.load(folder)


def test_what_is_shared_counts_once_and_what_is_own_for_each_task(frame):
    found = contest(frame)
    assert [one.name for one in found.contenders] == [
        "full 1",
        "lora 2",
        "lora 8",
        "shared 4",
        "shared 16",
    ]
    assert (set(found.tasks), found.seeds, found.left_out) == (set(TASKS), (0, 1, 2), ())
    lora = found.contenders[2]
    assert [lora.bytes(tasks) for tasks in (1, 2, 20)] == [1160, 1320, 4200]
    summary = tables.summary(frame, scores(frame, found))
    row = summary.values.iloc[2]
    assert [row[f"bytes_{tasks}"] for tasks in tables.TASKS] == [1160, 1320, 1800, 4200]
    assert "quality was measured on 3 alone" in summary.caption
    assert "The base as it is: 40.00 (" in summary.caption and "noisy 50.00" in summary.caption


contenders = st.tuples(st.integers(0, 5000), st.integers(0, 300))


@given(contenders, contenders)
def test_from_that_number_of_tasks_on_it_takes_fewer_bytes_and_not_before(one, other):
    first, second = (Competitor("a", 1.0, {}, {}, *map(float, pair)) for pair in (one, other))
    fewer = [first.bytes(n) < second.bytes(n) for n in range(1, 6000)]
    found = first.fewer_from(second)
    if found is None:
        assert not fewer[-1]
    else:
        assert all(fewer[found - 1 :]) and not any(fewer[: found - 1])


def test_the_mean_and_its_error_are_those_of_the_examples_of_all_tasks(frame):
    """Each image counts once, with what all tasks and seeds made of it."""
    found = scores(frame, contest(frame))
    assert found.paired and found.sample.examples == COUNT
    values = [right(0.93, task, seed) for task in TASKS for seed in range(3)]
    score = found.of(2)
    assert score.mean == pytest.approx(np.mean(values))
    of_images = np.mean(values, axis=0)
    assert score.error == pytest.approx(of_images.std(ddof=1) / COUNT**0.5)
    by_seed = [np.mean(values[seed::3]) for seed in range(3)]
    assert score.spread == pytest.approx(np.std(by_seed, ddof=1))
    assert score.low < score.mean < score.high


def test_examples_of_their_own_are_strata(tmp_path):
    """Tasks with other images and other numbers of them: their errors add up as of independent
    means, and each task counts alike."""
    random = np.random.default_rng(0)
    values = {
        (point, task): (random.random(n) < 0.3 + 0.2 * place).astype(float)
        for place, (task, n) in enumerate(zip(TASKS, (50, 120, 300), strict=True))
        for point in [("lora", 2), ("lora", 8)]
    }
    records = [made(*point, task, 0, values=value) for (point, task), value in values.items()]
    frame = written(tmp_path, records)
    found = scores(frame, contest(frame))
    assert not found.paired and found.sample.examples == 470
    own = [values[("lora", 2), task] for task in TASKS]
    assert found.of(0).mean == pytest.approx(np.mean([one.mean() for one in own]))
    of_tasks = [one.var() / len(one) for one in own]
    assert found.of(0).error == pytest.approx(math.sqrt(sum(of_tasks)) / 3, rel=0.01)
    parts = [
        weighted_mean(one, np.ones(len(one)), np.arange(len(one)) + 1000 * place)
        for place, one in enumerate(own)
    ]
    assert found.of(0).error == pytest.approx(averaged(parts).error)
    difference = found.test(1, 0)
    assert difference.low < difference.value < difference.high
    spread = [np.var(values[("lora", 8), t] - values[("lora", 2), t]) for t in TASKS]
    expected = sum(s / len(one) for s, one in zip(spread, own, strict=True)) ** 0.5 / 3
    assert difference.error == pytest.approx(expected, rel=0.1)


def test_the_answer_takes_the_first_level_that_is_as_good(frame):
    found = scores(frame, contest(frame))
    weak, strong = set_against(found, "shared", "lora")
    # 1100 + 20 n < 1000 + 40 n from 6 on; 1400 + 80 n < 1000 + 160 n from 6 on.
    assert (weak.second.name, weak.tasks) == ("lora 2", 6)
    assert weak.first is not None and weak.first.name == "shared 4"
    assert strong.first is None or strong.first.name == "shared 16"
    text = saving.sentence(found, "shared", [weak, strong])
    assert "shared takes fewer bytes than lora at a quality that cannot be told" in text
    assert "than lora 2 from 6 tasks on, as shared 4 (" in text
    (against,) = set_against(found, "lora", "full")
    assert against.first is None and against.why == "every level is worse"
    assert "at no number of tasks (every level is worse)" in saving.sentence(
        found, "lora", [against]
    )
    table = saving.table(frame, found, [("shared", weak), ("lora", against)])
    assert list(table.values["from_tasks"])[:1] == [6]
    assert table.cells["from tasks"].tolist() == ["6", "–"]


def test_a_level_that_is_worse_does_not_count_however_few_bytes_it_takes(frame):
    found = scores(frame, contest(frame))
    for one in set_against(found, "shared", "lora"):
        assert one.second.level != 8 or one.first is None or one.first.level == 16
    backward = {one.second.name: one for one in set_against(found, "lora", "shared")}
    # lora 2 is as good as shared 4, and never takes fewer bytes from a number of tasks on.
    assert backward["shared 4"].why == "what is as good takes no fewer bytes for a task"


def test_bold_is_what_cannot_be_told_from_the_best(frame):
    found = scores(frame, contest(frame))
    table = tables.summary(frame, found)
    bold = dict(
        zip(
            [one.name for one in found.contest.contenders],
            table.best["mean over tasks"],
            strict=True,
        )
    )
    assert bold["full 1"] and not bold["lora 2"] and not bold["shared 4"]
    assert "**9" in table.to_markdown()


def test_each_task_stands_in_its_column(frame):
    found = scores(frame, contest(frame))
    table = tables.each(frame, found)
    assert set(TASKS) <= set(table.cells)
    expected = np.mean([right(0.93, "noisy", seed) for seed in range(3)])
    assert float(table.values["noisy"].iloc[2]) == pytest.approx(expected)


def test_of_several_settings_the_best_on_validation_stands_for_the_level(tmp_path):
    points = [("lora", 2)]
    records = every(points, seeds=(0,), rate=0.1)
    for task in TASKS:
        better = made("lora", 2, task, 0, rate=0.01, values=right(0.9, task, 0))
        better["validation"]["top1"] = 0.1
        records.append(better)
    frame = written(tmp_path, records)
    (one,) = contest(frame).contenders
    assert one.chosen == {"recovery.learning_rate": "0.1"}
    frame.loc[frame["recovery.learning_rate"] == 0.01, "validation_top1"] = 0.99
    (one,) = contest(frame).contenders
    assert one.chosen == {"recovery.learning_rate": "0.01"}
    table = tables.summary(frame, scores(frame, contest(frame)))
    assert table.cells["learning_rate"].tolist() == ["0.01"]
    assert "Of several values of recovery.learning_rate the one" in table.caption


def test_what_has_no_record_of_each_task_is_left_out_and_named(tmp_path):
    frame: Any = written(tmp_path, [*every([("lora", 2)]), made("lora", 8, "noisy", 0)])
    found = contest(frame)
    assert [one.name for one in found.contenders] == ["lora 2"]
    assert found.left_out == ("lora 8",)
    caption = tables.summary(frame, scores(frame, found)).caption
    assert "Left out, for lack of a point: lora 8." in caption
    apart = frame[(frame["level"] == 8) | (frame["task"] == "plain")]
    with pytest.raises(ValueError, match="no method has a record of each of 2 tasks and 3 seeds"):
        contest(apart)


@pytest.mark.parametrize(
    "sharing, message",
    [
        ({"shared_hash": "another"}, "lora 2 with seed 1 has another base for (noisy|plain|rot)"),
        ({"shared_bytes": 999}, "has another base for"),
    ],
)
def test_a_base_that_is_not_the_same_in_all_tasks_is_refused(tmp_path, sharing, message):
    records = [*every([("lora", 2)], seeds=(0,)), *every([("lora", 2)], TASKS[:2], seeds=(1,))]
    frame = written(tmp_path, [*records, made("lora", 2, "noisy", 1, **sharing)])
    with pytest.raises(ValueError, match=message):
        contest(frame)


def test_what_cannot_be_set_together(tmp_path, frame):
    with pytest.raises(ValueError, match="several models .mlp, other., which have no base in"):
        contest(frame.assign(model=["other", *["mlp"] * (len(frame) - 1)]))
    with pytest.raises(ValueError, match="does not say what its tasks share"):
        contest(frame.drop(columns="sharing.shared_hash"))
    with pytest.raises(ValueError, match="metric='macro_f1' is no mean over test examples"):
        contest(frame, "macro_f1")
    with pytest.raises(ValueError, match="more than once"):
        contest(frame.loc[[*frame.index, 0]].reset_index(drop=True))
    found = scores(frame, contest(frame))
    with pytest.raises(ValueError, match="no contender is of method 'vera': there are full, lora"):
        set_against(found, "shared", "vera")
    with pytest.raises(ValueError, match="cannot be compared with itself"):
        set_against(found, "lora", "lora")


def test_records_of_another_test_split_are_refused(tmp_path):
    records = [r for r in every([("lora", 2)], seeds=(0, 1))]
    frame = written(tmp_path, records)
    other = made("lora", 2, "noisy", 1, values=right(0.9, "noisy", 1, 300))
    store.save(other, tmp_path)
    frame = store.load(tmp_path)
    with pytest.raises(ValueError, match="task noisy were measured on different test splits"):
        scores(frame, contest(frame))


def test_the_figure_has_a_line_for_each_method_and_intervals(frame):
    found = scores(frame, contest(frame))
    figure = tasks_figure(frame, found)
    (axes,) = figure.axes
    lines = {c.get_label(): c for c in axes.containers}
    assert set(lines) == {"full", "lora", "shared"}
    x, y = lines["lora"][0].get_data()
    assert list(x) == [(1000 + 3 * own) / 1e6 for own in (40, 160)]
    assert list(y) == pytest.approx([100 * found.of(place).mean for place in (1, 2)])
    (bars,) = lines["lora"][2]
    low, high = bars.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((100 * found.of(1).low, 100 * found.of(1).high))
