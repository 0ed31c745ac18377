from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lowrank.measure import compare_latency, latency


class Clock:
    """Stands in for `time`; advanced by the blocks that `FakeTimer` pretends to run."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class FakeTimer:
    """Times taken from a script; keeps who was timed, and for how many passes."""

    def __init__(self, stmt: str, globals: dict, num_threads: int) -> None:
        assert stmt == "model(*example)"
        self.model, self.threads = globals["model"], num_threads

    def blocked_autorange(self, min_run_time: float) -> SimpleNamespace:
        assert not self.model.training
        assert torch.is_inference_mode_enabled()
        return SimpleNamespace(median=self.model.times[0])

    def timeit(self, number: int) -> SimpleNamespace:
        self.model.clock.now += 1
        self.model.log.append((self.model.label, number))
        return SimpleNamespace(median=self.model.times.pop(0))


class Scripted(nn.Linear):
    def __init__(self, label: str, times: list[float], clock: Clock, log: list) -> None:
        super().__init__(4, 4)
        self.label, self.times, self.clock, self.log = label, list(times), clock, log


@pytest.fixture
def fake(monkeypatch):
    """Compare models of scripted times; give the comparison and who was timed when."""

    def run(dense: list[float], compressed: list[float], seconds: float | None = None):
        clock, log = Clock(), []
        monkeypatch.setattr(latency, "time", clock)
        monkeypatch.setattr("torch.utils.benchmark.Timer", FakeTimer)
        models = [Scripted("d", dense, clock, log), Scripted("c", compressed, clock, log)]
        # By default exactly until the scripts are used up.
        seconds = 2 * len(dense) - 1 if seconds is None else seconds
        return compare_latency(*models, (torch.zeros(5, 4),), seconds, threads=3), log

    return run


def test_blocks_alternate_and_so_does_who_goes_first(fake):
    _, log = fake([1.0] * 7, [1.0] * 7)
    assert "".join(label for label, _ in log) == "dccddccddccddc"


def test_there_are_enough_blocks_for_an_interval_however_slow_the_model(fake):
    _, log = fake([1.0] * 9, [1.0] * 9, seconds=1e-9)
    assert len(log) == 10


def test_passes_fill_a_block_and_are_at_least_one(fake):
    _, log = fake([0.0001] * 5, [5.0] * 5)
    assert set(log) == {("d", 20), ("c", 1)}


def test_medians_ranges_and_paired_ratios(fake):
    measured, _ = fake([2.0, 4, 6, 8, 10, 12, 14], [1.0, 1, 2, 2, 2, 3, 2])
    assert (measured.dense_s, measured.compressed_s) == (8.0, 2.0)
    assert (measured.dense_iqr_s, measured.compressed_iqr_s) == (6.0, 0.5)
    # Ratios 2, 4, 3, 4, 5, 4, 7: of seven all lie above their median with a chance of 1 in 128,
    # and all but one with 8 in 128, which is above 5 %.
    assert measured.speedup == 4.0
    assert (measured.speedup_low, measured.speedup_high) == (2.0, 7.0)
    assert (measured.batch_size, measured.threads) == (5, 3)
    assert (measured.device, measured.dtype) == ("cpu", "float32")


def test_a_load_on_the_machine_spreads_the_times_and_not_the_speedup(fake):
    load = [1.0, 1, 1, 3, 3, 3, 9]
    measured, _ = fake([2 * slow for slow in load], load)
    assert measured.compressed_iqr_s > 0
    assert measured.speedup_low == measured.speedup == measured.speedup_high == 2.0


def test_a_ratio_of_medians_would_lie_outside(fake):
    # The one is slow in the first three blocks, the other in the last: medians 3 and 1.
    measured, _ = fake([3.0, 3, 3, 3, 1, 1, 1], [3.0, 3, 3, 1, 1, 1, 1])
    assert measured.dense_s / measured.compressed_s == 3
    assert measured.speedup_low <= measured.speedup == 1 <= measured.speedup_high


def test_without_a_speedup_the_times_stay(fake):
    measured, _ = fake([2.0] * 7, [1.0] * 7)
    times = measured.without_speedup()
    assert (times.speedup, times.speedup_low, times.speedup_high) == (None, None, None)
    assert (times.dense_s, times.compressed_s, times.batch_size) == (2.0, 1.0, 5)


def test_with_the_real_clock():
    dense, compressed = nn.Linear(8, 8).double(), nn.Linear(8, 8).double()
    threads = torch.get_num_threads()
    dense.eval()
    example = (torch.zeros(2, 8, dtype=torch.float64),)
    measured = compare_latency(dense, compressed, example, seconds=0.01)
    assert measured.dtype == "float64"
    assert measured.threads == threads == torch.get_num_threads()
    assert min(measured.dense_s, measured.compressed_s, measured.speedup) > 0
    assert measured.speedup_low <= measured.speedup <= measured.speedup_high
    assert (dense.training, compressed.training) == (False, True)


def test_the_dtype_is_the_models_and_not_that_of_token_indices():
    table = nn.Embedding(4, 4)
    measured = compare_latency(table, table, (torch.zeros(2, 3, dtype=torch.int64),), seconds=0.01)
    assert measured.dtype == "float32"


def test_fields_are_those_of_the_record(fake):
    assert set(asdict(fake([1.0] * 7, [1.0] * 7)[0])) == set(
        "batch_size dense_s dense_iqr_s compressed_s compressed_iqr_s speedup speedup_low "
        "speedup_high threads device dtype".split()
    )


@pytest.mark.parametrize("options", [{"seconds": 0.0}, {"seconds": float("nan")}, {"threads": 0}])
def test_bad_settings(options):
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="must be above 0 and threads=.* at least 1"):
        compare_latency(layer, layer, (torch.zeros(1, 2),), **options)


def test_an_example_is_a_tuple():
    with pytest.raises(ValueError, match="must be a non-empty tuple"):
        latency.compare_latency(nn.Linear(2, 2), nn.Linear(2, 2), torch.zeros(1, 2))  # type: ignore
