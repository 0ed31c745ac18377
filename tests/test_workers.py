"""Functions in worker processes, some of which are killed."""

import os
import signal
import time
from pathlib import Path

import pytest

from experiments.workers import _Pool, run_in_workers, worker_count


def triple(number: int) -> int:
    return 3 * number


def kill_itself(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    if number == 1:
        raise ArithmeticError("one is too few")
    time.sleep(0.01)
    return number


def who_and_when(folder: Path) -> tuple[int, float, float]:
    """The process, and when it began and ended, having waited for another to begin."""
    begun = time.time()
    (folder / str(os.getpid())).touch()
    deadline = time.time() + 30
    while len(list(folder.iterdir())) < 2 and time.time() < deadline:
        time.sleep(0.01)
    return os.getpid(), begun, time.time()


def bars_are_off(number: int) -> bool:
    return os.environ.get("TQDM_DISABLE") == "1"


def test_bars_are_shown_by_a_worker_alone():
    """Those of several would overwrite each other on one line."""
    assert run_in_workers(bars_are_off, range(2), 2, None) == [True, True]
    assert run_in_workers(bars_are_off, range(2), 1, None) == [False, False]


def test_results_come_in_the_order_of_the_tasks():
    assert run_in_workers(triple, range(7), 2, None) == [3 * number for number in range(7)]


def test_what_a_killed_worker_had_is_lost_and_nothing_else():
    assert run_in_workers(kill_itself, [1, 2, 3, 2, 5], 2, "lost") == [1, "lost", 3, "lost", 5]


def test_workers_run_at_the_same_time(tmp_path):
    (one, begun, ended), (other, later, _) = run_in_workers(who_and_when, [tmp_path] * 2, 2, None)
    assert one != other and os.getpid() not in (one, other)
    assert max(begun, later) < ended


@pytest.mark.parametrize("asked", [0, -2, 1.5, True, "2", None])
def test_a_number_of_workers_that_cannot_be(asked):
    with pytest.raises(ValueError, match=r"n_jobs=.* must be a whole number from 1, or -1 for one"):
        worker_count(asked)
    assert worker_count(3) == 3


def test_one_worker_for_each_core_that_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 5, 7}, raising=False)
    assert worker_count(-1) <= 3
    monkeypatch.setattr(_Pool, "renew", lambda self: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert _Pool(worker_count(-1)).environment["OMP_NUM_THREADS"] == "1"


def test_an_error_ends_the_work_and_is_raised():
    with pytest.raises(ArithmeticError, match="one is too few"):
        run_in_workers(refuse, range(50), 2, None)
