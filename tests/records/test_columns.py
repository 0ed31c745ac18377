"""What the columns are called, and which way is better."""

import json
import math

import made_records as records
import pandas as pd
import pytest

from lowrank.metrics.metric import Metric, read_metrics
from lowrank.records import store
from lowrank.records.columns import COSTS, level_text, measure, metrics_of

LOWER = {
    *("layers_bits_per_weight", "trainable_params", "trainable_bytes", "params", "bytes"),
    *("body_bytes", "macs", "peak_memory_bytes"),
}
TOLD = {
    metric.name: metric
    for told in (records.METRICS, records.TEXT_METRICS)
    for metric in read_metrics(told, "metrics")
}


def test_less_is_better_of_what_is_no_ratio():
    assert {name for name, shown in COSTS.items() if not shown.higher_is_better} == LOWER


def test_values_times_the_sign_rank_the_same_way():
    better = {"top1": (0.9, 0.8), "perplexity": (4.8, 5.1), "kl": (0.1, 0.4)}
    for name, (good, bad) in better.items():
        assert TOLD[name].sign * good > TOLD[name].sign * bad


@pytest.mark.parametrize(
    ("name", "mean", "spread", "text"),
    [
        ("top1", 0.97783, 0.0028, "97.78 ± 0.28"),
        ("compression_ratio", 4.0, math.nan, "4.00"),
        ("layers_bits_per_weight", 4.3214, math.nan, "4.32"),
        ("trainable_params", 1484.0, 0.0, "1484 ± 0"),
        ("perplexity", 4.7561, math.nan, "4.756"),
        ("perplexity", 372.04, 1.26, "372.0 ± 1.3"),
        ("perplexity", 21034.4, 310.2, "21034 ± 310"),
        ("kl", 0.12345, math.nan, "0.123"),
        ("perplexity", math.nan, math.nan, "–"),
    ],
)
def test_numbers_have_the_digits_that_people_read(name, mean, spread, text):
    assert (TOLD | COSTS)[name].text(mean, spread) == text


def test_a_measure_that_is_not_known_is_none():
    frame = pd.DataFrame({"glue": [1.0], "metrics": [json.dumps(records.METRICS)]})
    for name in ("glue", "speedup_b1", "latency_b1"):
        with pytest.raises(ValueError, match=f"do not say what '{name}' is, nor which way is"):
            measure(frame.assign(**{name: 1.0}), name)
    with pytest.raises(ValueError, match="hold no column 'blue' to draw"):
        measure(frame, "blue")


def test_a_value_on_the_validation_split_says_so(tmp_path):
    store.save(records.record(), tmp_path)
    frame = store.load(tmp_path)
    shown = measure(frame, "validation_top1")
    assert (
        shown.words == "top-1 accuracy (validation split)"
        and shown.heading == "top-1 (%), validation"
    )
    assert shown.name == "validation_top1" and shown.average is None
    assert measure(frame, "top1").words == "top-1 accuracy (test split)"


def test_the_metrics_of_a_task_come_from_its_records(tmp_path):
    own = [{"name": "mse", "title": "squared error", "heading": "MSE", "higher_is_better": False}]
    made_up = records.record() | {"metrics": own}
    for part in ("dense", "compressed"):
        sizes = {name: made_up[part][name] for name in ("params", "bytes")}
        made_up[part] = sizes | {"mse": 2.0}
    made_up |= {"validation": {"mse": 2.5}}
    made_up |= {"standard_errors": records.NO_ERRORS}
    store.save(made_up, tmp_path)
    frame = store.load(tmp_path)
    meaning = Metric("mse", "squared error", "MSE", higher_is_better=False)
    assert metrics_of(frame) == {"mse": meaning} and measure(frame, "mse") == meaning
    other = frame.assign(metrics=json.dumps([own[0] | {"higher_is_better": True}]))
    with pytest.raises(ValueError, match="say different things of metric 'mse'"):
        metrics_of(pd.concat([frame, other]))
    with pytest.raises(ValueError, match="no column 'metrics'"):
        metrics_of(frame.drop(columns="metrics"))


def test_less_time_is_better():
    timed = {"latency_b1_device": "cpu", "latency_b1_dtype": "float32", "latency_b1_threads": 1}
    timed["metrics"] = json.dumps(records.METRICS)
    frame = pd.DataFrame([timed | {"latency_b1_s": 0.1}])
    assert not measure(frame, "latency_b1_s").higher_is_better


def test_conditions_of_a_speedup_are_read_as_they_were_written():
    # Beside a record that was not timed, whole numbers come as fractions.
    timed = {"latency_b1_device": "cpu", "latency_b1_dtype": "float32", "speedup_b1": 1.0}
    timed["metrics"] = json.dumps(records.METRICS)
    frame = pd.DataFrame([timed | {"latency_b1_threads": 1}, {"metrics": timed["metrics"]}])
    assert "batch 1, cpu, 1 thread, float32" in measure(frame, "speedup_b1").words
    mixed = pd.DataFrame([timed | {"latency_b1_threads": n} for n in (1, 4)])
    assert "batch 1, cpu, 1/4 threads, float32" in measure(mixed, "speedup_b1").words


@pytest.mark.parametrize(
    ("level", "text"), [(8.0, "8"), (0.55, "0.55"), (None, "–"), (math.nan, "–")]
)
def test_a_method_without_levels_has_a_dash(level, text):
    assert level_text(level) == text
