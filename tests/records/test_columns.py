"""What the columns are called, and which way is better."""

import math

import pandas as pd
import pytest

from lowrank.records.columns import MEASURES, Measure, level_text, measure

LOWER = {
    *("layers_bits_per_weight", "trainable_params", "trainable_bytes", "perplexity"),
    *("word_perplexity", "bits_per_byte", "loss", "flipped", "kl"),
}


def test_less_is_better_of_costs_and_losses_only():
    assert {name for name, shown in MEASURES.items() if not shown.higher_is_better} == LOWER


def test_values_times_the_sign_rank_the_same_way():
    better = {"top1": (0.9, 0.8), "perplexity": (4.8, 5.1), "cosine": (0.9, 0.4)}
    for name, (good, bad) in better.items():
        assert MEASURES[name].sign * good > MEASURES[name].sign * bad


def test_what_the_dense_model_has_by_definition():
    assert {name: shown.dense for name, shown in MEASURES.items() if shown.dense is not None} == {
        "cosine": 1.0,
        "flipped": 0.0,
        "kl": 0.0,
    }


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
    assert MEASURES[name].text(mean, spread) == text


def test_a_measure_that_is_not_known_says_how_it_is_taken():
    frame = pd.DataFrame({"glue": [1.0]})
    assert measure(frame, "glue") == Measure("glue (more is taken as better)", "glue")
    with pytest.raises(ValueError, match="hold no column 'blue' to draw"):
        measure(frame, "blue")


def test_conditions_of_a_speedup_are_read_as_they_were_written():
    # Beside a record that was not timed, whole numbers come as fractions.
    timed = {"latency_b1_device": "cpu", "latency_b1_dtype": "float32", "speedup_b1": 1.0}
    frame = pd.DataFrame([timed | {"latency_b1_threads": 1}, {"speedup_b1": None}])
    assert "batch 1, cpu, 1 thread, float32" in measure(frame, "speedup_b1").words
    mixed = pd.DataFrame([timed | {"latency_b1_threads": n} for n in (1, 4)])
    assert "batch 1, cpu, 1/4 threads, float32" in measure(mixed, "speedup_b1").words


@pytest.mark.parametrize(
    ("level", "text"), [(8.0, "8"), (0.55, "0.55"), (None, "–"), (math.nan, "–")]
)
def test_a_method_without_levels_has_a_dash(level, text):
    assert level_text(level) == text
