"""Sweeps on machines that share a folder: one is lost, one comes back, one has a full disk."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from sweeps import ROOT, command, environment, records
from test_sharing import until

# The sweep as on a machine of that name, where a claim is dead after two seconds without a sign.
NODE = """
import socket, sys
name = sys.argv.pop(1)
socket.gethostname = lambda: name
from lowrank.records.claims import Claims
Claims.__init__.__defaults__ = (2.0,)
from experiments import sweep
sweep.main()
"""
# A method that takes its time, and shows that it has begun.
SLOW = """
import time
from pathlib import Path
from lowrank.decomposers import TruncatedSVD

class Slow(TruncatedSVD):
    def _decompose(self, weight, norm):
        Path(__file__).with_name("begun").touch()
        time.sleep(0.3)
        return super()._decompose(weight, norm)
"""
# The clock of the machine is wrong by so many days.
CLOCK = """
import time
right = time.time
time.time = lambda: right() + {} * 24 * 3600
"""
# The disk is full in the middle of the second record.
FULL = """
import errno, os
from pathlib import Path
whole, count = Path.write_text, 0
def write_text(path, text, **options):
    global count
    if path.suffix == ".tmp" and text.startswith("{"):
        count += 1
        if count == 2:
            whole(path, text[: len(text) // 2], **options)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return whole(path, text, **options)
Path.write_text = write_text
"""


@pytest.fixture
def node(cache, tmp_path):
    """Starts the sweep of a slow method on a machine; all are ended with the test."""
    (tmp_path / "slow.py").write_text(SLOW)
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    started = []

    def start(name, *arguments, before=""):
        given = [*command()[3:], "method._target_=slow.Slow", f"results={tmp_path / 'records'}"]
        process = subprocess.Popen(
            [sys.executable, "-c", before + NODE, name, *given, *arguments],
            cwd=ROOT,
            env=environment(cache) | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def whole(folder):
    """The records, with nothing half-written and no claim beside them."""
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    return records(folder)


def test_the_points_of_a_lost_machine_are_taken_over(node, tmp_path):
    folder = tmp_path / "records"
    lost = node("node1", "method.rank=4")
    until((tmp_path / "begun").exists, lost)
    lost.send_signal(signal.SIGKILL)
    lost.wait()
    output, _ = node("node2", "method.rank=4,8").communicate(timeout=300)
    assert "2 points: 0 had their record, 2 measured here, 0 by others, 0 failed\n" in output
    assert len(whole(folder)) == 2


def test_a_machine_that_comes_back_leaves_one_whole_record(node, tmp_path):
    folder = tmp_path / "records"
    stalled = node("node1", "method.rank=4")
    until((tmp_path / "begun").exists, stalled)
    stalled.send_signal(signal.SIGSTOP)
    output, _ = node("node2", "method.rank=4").communicate(timeout=300)
    assert "1 measured here, 0 by others, 0 failed\n" in output
    (before,) = records(folder).items()
    stalled.send_signal(signal.SIGCONT)
    output, _ = stalled.communicate(timeout=300)
    assert "1 measured here, 0 by others, 0 failed\n" in output
    (after,) = whole(folder).items()
    assert after == before


def test_clocks_that_differ_by_days_make_no_difference(node, tmp_path):
    points = "method.rank=2,3,4,5"
    nodes = [node(f"node{days}", points, before=CLOCK.format(days)) for days in (-20, 20)]
    outputs = [process.communicate(timeout=300)[0] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], outputs
    counts = [re.search(r"(\d) had their record, (\d) measured here", one) for one in outputs]
    assert sum(int(found[2]) for found in counts if found) == 4
    assert len(whole(tmp_path / "records")) == 4
    assert not any("-" in one.partition(" left]")[0] for one in outputs)


def test_where_the_disk_is_full_a_point_fails_and_no_part_of_it_stays(node, tmp_path):
    folder, points = tmp_path / "records", "method.rank=2,4,8"
    full = node("node1", points, before=FULL)
    output, _ = full.communicate(timeout=300)
    assert full.returncode == 1
    assert "FAILED threads=1" in output and "No space left on device" in output
    assert "3 points: 0 had their record, 2 measured here, 0 by others, 1 failed" in output
    assert len(whole(folder)) == 2
    for path in folder.glob("*.json"):
        assert json.loads(path.read_text())["key"] == path.stem
    again = node("node1", points)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0
    assert "3 points: 2 had their record, 1 measured here, 0 by others, 0 failed" in output
