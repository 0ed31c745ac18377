"""Temporary folders go with their process, or with the next one."""

import subprocess
import sys
import tempfile

import pytest

from lowrank.files import scratch

KILLED = """
import os, signal
from lowrank.files import scratch
with scratch.folder() as folder:
    (folder / "large").write_bytes(b"0" * 1000)
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_a_folder_is_there_inside_and_gone_afterwards(tmp_path):
    with scratch.folder() as folder:
        assert folder.is_dir() and folder.parent == tmp_path
        (folder / "part").touch()
        with scratch.folder() as other:
            assert other != folder
        scratch.clean()
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())


def test_the_next_process_removes_what_a_killed_one_left(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    assert killed.returncode == -9
    assert [str(path) for path in tmp_path.iterdir()] == [killed.stdout.strip()]
    with scratch.folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_what_is_not_of_this_machine_or_not_ours_stays(tmp_path):
    with scratch.folder() as folder:
        own = folder.name
    others = ["lowrank-0badc0de-1-1-xyz", "lowrank-paper", "lowrank-sweep-abc", own[:17]]
    for name in others:
        (tmp_path / name).mkdir()
    scratch.clean()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
