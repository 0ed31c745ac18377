"""Points as tasks of Ray: on this machine, and on a cluster of two, one of which is lost."""

import os
import re
import subprocess
import sys

import programs
import pytest
from sweeps import ROOT, command, environment, records

pytest.importorskip("ray")
pytestmark = pytest.mark.environment

# Two machines with one core each, and one that only knows of them; until standard input ends.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(True, head_node_args={"num_cpus": 0})
for _ in range(2):
    cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
# At the first try of one point its worker is killed, and at that of another its whole machine.
KILLED = """
import os, signal
from pathlib import Path
from lowrank.decomposers import TruncatedSVD

class Killed(TruncatedSVD):
    def _decompose(self, weight, norm):
        mark = Path(__file__).with_name(f"killed{self.rank}")
        killed = {3: os.getpid(), 4: os.getppid()}.get(self.rank)
        if killed and not mark.exists():
            mark.touch()
            os.kill(killed, signal.SIGKILL)
        return super()._decompose(weight, norm)
"""

# Of what cannot be read, and of whether others reach the ports of a cluster of this machine.
ALONE = """
import socket
from experiments.ray_cluster import connect, run_on_cluster

class Unreadable(Exception):
    def __init__(self, one, other):
        super().__init__(one)

def work(number):
    if number == 2:
        raise Unreadable(1, 2)
    return Unreadable(1, 2) if number == 3 else number

connect(None)
for number in (1, 2, 3):
    try:
        print(number, run_on_cluster(work, [number], 1, 1, 0, "lost"))
    except Exception as error:
        print(number, "Unreadable" in str(error))
import ray
host, port = ray.get_runtime_context().gcs_address.split(":")
for address in (host, "127.0.0.2"):
    with socket.socket() as other:
        print(address, other.connect_ex((address, int(port))) == 0)
"""


@pytest.fixture
def sweep(cache, tmp_path, monkeypatch):
    """Runs a sweep by Ray, whose secrets and paths are those of the test."""
    (tmp_path / "killed_once.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    monkeypatch.setenv("RAY_worker_niceness", "0")

    def run(*arguments):
        words = command(*arguments)[1:]
        return programs.run(*words, cwd=ROOT, env=environment(cache), timeout=1000)

    return run


@pytest.fixture
def cluster(sweep):
    """The address of a cluster, which ends with the test."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()
    assert process.returncode == 0


def test_a_killed_worker_and_a_lost_machine_lose_no_point(sweep, cluster, tmp_path):
    by_ray = ("hydra/launcher=ray", f"hydra.launcher.address={cluster}")
    ranks = ("method._target_=killed_once.Killed", "method.rank=2,3,4,5")
    finished = sweep(*by_ray, *ranks, f"results={tmp_path / 'records'}")
    assert finished.returncode == 0, finished.stderr
    # What still runs on a machine when Ray gives it up may end a point, as another process does.
    said = r"4 points: 0 had their record, [34] measured here, [01] by others, 0 failed"
    assert re.search(said, finished.stdout)
    assert finished.stderr.count("was killed; the point is measured again") >= 2
    assert len(records(tmp_path / "records")) == 4


def test_records_are_those_of_one_process_and_a_restart_keeps_them(sweep, tmp_path):
    folders = [f"results={tmp_path / name}" for name in ("ray", "one")]
    finished = sweep("hydra/launcher=ray", "method.rank=2,3", folders[0])
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("seed 0  top1") == 2, finished.stdout
    assert finished.stdout.startswith("[1/2, ")
    finished = sweep("hydra/launcher=ray", "method.rank=2,3,5", folders[0])
    assert "3 points: 2 had their record, 1 measured here" in finished.stdout
    assert sweep("method.rank=2,3,5", folders[1]).returncode == 0
    assert records(tmp_path / "ray") == records(tmp_path / "one")


def test_points_that_no_machine_has_room_for_are_refused(sweep, tmp_path):
    given = ("hydra.launcher.gpus=1000", "method.rank=2", f"results={tmp_path / 'records'}")
    finished = sweep("hydra/launcher=ray", *given)
    assert finished.returncode == 1
    said = finished.stderr.splitlines()[-1]
    assert said.startswith("hydra/launcher=ray: hydra.launcher.cpus=1 and gpus=1000 are more than")


def test_a_cluster_of_this_machine_is_alone_and_says_what_it_cannot_read(monkeypatch):
    """A result, or an exception, that cannot be made again is no lost worker."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    ended = programs.run("-c", ALONE, cwd=ROOT, timeout=300)
    lines = [line for line in ended.stdout.splitlines() if line[:1] in "123"]
    said = ["1 [1]", "2 True", "3 True", "127.0.0.1 True", "127.0.0.2 False"]
    assert lines == said, ended.stderr
