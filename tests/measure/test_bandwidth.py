"""The speed of reading memory."""

import torch

from lowrank.measure import bandwidth
from lowrank.measure.bandwidth import read_bandwidth


def test_it_is_measured_once_for_a_number_of_threads(monkeypatch):
    monkeypatch.setitem(bandwidth.BYTES, "cpu", 2**20)
    bandwidth._measured.cache_clear()
    try:
        first = read_bandwidth()
        assert first == read_bandwidth(torch.device("cpu")) and first > 0
        assert bandwidth._measured.cache_info().misses == 1
    finally:
        bandwidth._measured.cache_clear()


def test_it_counts_the_bytes_that_are_read_in_a_second(monkeypatch):
    monkeypatch.setitem(bandwidth.BYTES, "cpu", 2**20)
    clock = iter(range(100))
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(clock) / 4)
    bandwidth._measured.cache_clear()
    try:
        assert read_bandwidth() == 2**20 * 4
    finally:
        bandwidth._measured.cache_clear()
