"""What a point costs to measure: each number is counted once."""

import cProfile
import pstats
from collections import Counter

import pytest
from digits_task import QUICK, TASK

from lowrank.allocation import Budget, MixedAllocation, NormError
from lowrank.decomposers import GPTQ, Chain, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.measure import layer_macs
from lowrank.point import dense
from lowrank.point.point import measure_point
from lowrank.recovery import BiasCorrection, FineTune, NoRecovery


@pytest.fixture
def profile():
    """Of what runs; the dense model is none that an earlier test has measured."""
    caches = (dense.dense_model, dense.dense_macs, dense.dense_baseline, dense.dense_validation)
    for kept in caches:
        kept.cache_clear()
    return cProfile.Profile()


def called(profile: cProfile.Profile) -> Counter[str]:
    """How often functions of lowrank were called, by name."""
    found: Counter[str] = Counter()
    for (path, _, name), (_, count, *_) in pstats.Stats(profile).stats.items():  # type: ignore
        found[name] += count if "/lowrank/" in path else 0
    return found


def test_the_macs_of_each_model_are_counted_once(profile):
    records = [
        profile.runcall(measure_point, TASK, TruncatedSVD(rank=rank), measure=QUICK)
        for rank in (2, 3)
    ]
    assert called(profile)["layer_macs"] == 1 + len(records)  # The dense model's, and each one's.
    counted = layer_macs(TASK.model(), TASK.example())
    for rank, record in zip((2, 3), records, strict=True):
        shapes = [layer["shape"] for layer in record["layers"]]
        assert [layer["macs"] for layer in record["layers"]] == [rank * sum(s) for s in shapes]
        assert [layer["dense_macs"] for layer in record["layers"]] == [s[0] * s[1] for s in shapes]
        assert record["dense"]["macs"] == counted[""]
        assert record["compressed"]["macs"] == sum(layer["macs"] for layer in record["layers"])


def test_the_macs_of_a_dense_model_that_is_tuned_too_are_counted_once(profile):
    recovery = FineTune(epochs=1, learning_rate=1e-3)
    method = MagnitudePruning(0.5)
    record = profile.runcall(measure_point, TASK, method, recovery=recovery, measure=QUICK)
    assert called(profile)["layer_macs"] == 2
    assert record["dense"]["macs"] == record["dense_before_recovery"]["macs"]


def test_an_allocation_that_needs_an_example_has_it(profile):
    chosen = MixedAllocation(
        [TruncatedSVD(2), TruncatedSVD(6)], Budget(ratio=1.5, resource="macs"), NormError(), 0
    )
    record = profile.runcall(measure_point, TASK, chosen, measure=QUICK)
    assert record["compressed"]["macs"] <= record["dense"]["macs"] / 1.5


@pytest.mark.parametrize(
    ("recovery", "measured"),
    [(NoRecovery(), 0), (BiasCorrection(), 1), (FineTune(epochs=1, learning_rate=1e-2), 1)],
    ids=["none", "biases", "trained"],
)
def test_layers_are_measured_anew_only_after_a_recovery(profile, recovery, measured):
    method = TruncatedSVD(rank=4)
    record = profile.runcall(
        measure_point, TASK, method, norm="full", recovery=recovery, measure=QUICK
    )
    assert called(profile)["remeasure"] == measured
    layers = sum(layer["dense_bytes"] - layer["bytes"] for layer in record["layers"])
    assert record["dense"]["bytes"] - record["compressed"]["bytes"] == layers


def test_a_record_has_notes_in_one_text():
    record = measure_point(TASK, Chain([GPTQ(3), Quantization(8)]), norm="full", measure=QUICK)
    assert all(
        isinstance(layer["note"], str) and "notes" not in layer for layer in record["layers"]
    )
