"""What is refused before Ray is asked, and what a task gives back."""

import logging
import math
import socket

import pytest
from omegaconf import OmegaConf

from experiments.ray_cluster import _run, connect
from experiments.sweep import show_progress


def launcher(**changes):
    from hydra_plugins.ray_launcher import RayLauncher

    return RayLauncher(**{"address": None, "n_jobs": -1, "cpus": 1, "gpus": 0} | changes)


@pytest.mark.parametrize("address", ["nonsense", "localhost:", "127.0.0.1:x", "host.invalid:6379"])
def test_what_is_no_address(address):
    with pytest.raises(ConnectionError, match=rf"answers at hydra.launcher.address={address} \("):
        connect(address)


def test_a_cluster_that_does_not_answer_is_said_in_one_line():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # Nobody listens there.
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(SystemExit, match=rf"^hydra/launcher=ray: .*{address}[^\n]*$"):
            launcher(address=address).run_all(lambda job: job, [], None)


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"n_jobs": 0}, "n_jobs=0 must be a whole number from 1"),
        ({"cpus": -1}, "cpus=-1 must be a number from 0"),
        ({"gpus": math.inf}, "gpus=inf must be a number from 0"),
        ({"gpus": "two"}, "gpus=two must be a number from 0"),
        ({"cpus": True}, "cpus=True must be a number from 0"),
    ],
)
def test_numbers_that_cannot_be(changes, text):
    with pytest.raises(ValueError, match=text):
        launcher(**changes)


def work(number: int) -> int:
    show_progress()
    print(number)
    logging.getLogger("lowrank").info("long work %d", number)
    return -number


def test_what_a_task_prints_comes_with_its_result(tmp_path, monkeypatch):
    """Of each task its own, where one process runs several."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(logging.getLogger("lowrank"), "handlers", [])
    for number in (1, 2):
        expected = (-number, f"{number}\n", f"  long work {number}\n")
        assert _run((str(tmp_path), work), number) == expected


@pytest.mark.parametrize(
    "settings, count",
    [
        ({}, 1),
        ({"n_jobs": 4}, 4),
        ({"n_jobs": -1, "address": None}, -1),
        ({"n_jobs": 64, "address": "node1:6379"}, 1),
    ],
)
def test_this_machine_need_not_have_room_for_what_a_cluster_runs(settings, count):
    from hydra_plugins.union_sweeper import UnionSweeper

    sweeper = UnionSweeper({}, [])
    sweeper.config = OmegaConf.create({"hydra": {"launcher": settings}})
    assert sweeper.processes == count
