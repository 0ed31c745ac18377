"""Several sweeps and workers on the same points, some of which are killed."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from sweeps import ROOT, command, environment, records, run, start

SLOW = (
    "import time\n"
    "from lowrank.decomposers import TruncatedSVD\n\n"
    "class Slow(TruncatedSVD):\n"
    "    def _decompose(self, weight, norm):\n"
    "        time.sleep(0.3)\n"
    "        return super()._decompose(weight, norm)\n"
)


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A method of one's own that takes a second for each point."""
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "method._target_=slow.Slow"


def until(holds, process=None, seconds=300):
    deadline = time.time() + seconds
    while not holds():
        assert time.time() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.01)


def claimed_by(folder):
    """The processes that hold claims, by point."""
    found = {}
    for path in folder.glob("*.claim"):
        try:
            found[path.stem] = json.loads(path.read_text())["pid"]
        except (ValueError, FileNotFoundError):
            continue  # Just being written, or given up.
    return found


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_three_sweeps_at_once_measure_each_point_once_and_say_so(cache, tmp_path):
    ranks = "method.rank=range(1,9)"
    folder = tmp_path / "records"
    three = [
        subprocess.Popen(
            command(ranks, f"results={folder}"),
            cwd=ROOT,
            env=environment(cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in three]
    assert [process.returncode for process in three] == [0, 0, 0]
    pattern = r"8 points: (\d+) had their record, (\d+) measured here, (\d+) by others, 0 failed"
    said = [[int(number) for number in re.search(pattern, output).groups()] for output in outputs]
    assert sum(measured for _, measured, _ in said) == 8
    assert all(sum(numbers) == 8 for numbers in said)
    assert len(records(folder)) == 8
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_the_point_of_a_killed_sweep_is_taken_over_by_one_that_runs(cache, slow, tmp_path):
    folder = tmp_path / "records"
    killed = start(cache, slow, "method.rank=4", f"results={folder}")
    until(lambda: claimed_by(folder), killed)
    os.killpg(killed.pid, signal.SIGSTOP)  # It does not end before the other has begun.
    other = subprocess.Popen(
        command(slow, "method.rank=4,8", f"results={folder}"),
        cwd=ROOT,
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until(lambda: len(claimed_by(folder)) == 2 or list(folder.glob("*.json")), other)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    output, _ = other.communicate(timeout=120)
    assert other.returncode == 0, output
    assert "2 points: 0 had their record, " in output and "0 failed" in output
    assert len(records(folder)) == 2
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_a_killed_worker_loses_its_point_only_which_is_measured_again(cache, slow, tmp_path):
    folder = tmp_path / "records"
    workers = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = subprocess.Popen(
        command(*workers, slow, "method.rank=2,3,4,5", f"results={folder}"),
        cwd=ROOT,
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: len(claimed_by(folder)) == 2, process)
    (_, first), (_, second) = claimed_by(folder).items()
    os.kill(first, signal.SIGKILL)
    until(lambda: not runs(first), process)
    assert runs(second)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    said = "4 points: 0 had their record, 4 measured here, 0 by others, 0 failed"
    assert said in output
    assert errors.count("was killed; the point is measured again") == 1
    assert len(records(folder)) == 4
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_no_worker_outlives_a_killed_parent(cache, slow, tmp_path):
    folder = tmp_path / "records"
    workers = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = start(cache, *workers, slow, "method.rank=range(1,30)", f"results={folder}")
    until(lambda: len(claimed_by(folder)) == 2, process)
    pids = list(claimed_by(folder).values())
    assert process.pid not in pids and all(map(runs, pids))
    os.kill(process.pid, signal.SIGKILL)  # The parent alone.
    process.wait()
    until(lambda: not any(map(runs, pids)), seconds=20)
    # And what they left is no obstacle.
    done = run(cache, slow, "method.rank=1", f"results={folder}")
    assert done.returncode == 0, done.stderr
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
