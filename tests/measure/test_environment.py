"""The facts about where a measurement was made."""

import json
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from lowrank.measure import environment as module
from lowrank.measure.environment import environment


def test_it_names_libraries_machine_and_commit():
    facts = environment()
    assert facts["torch"] == version("torch") and facts["lowrank"] == version("lowrank")
    assert facts["python"] == platform.python_version()
    assert facts["threads"] == torch.get_num_threads()
    assert facts["device"] == "cpu" and facts["cpu"]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_code_that_runs():
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    asked = subprocess.run(command, capture_output=True, text=True)
    module._git.cache_clear()
    expected = asked.stdout.strip() if asked.returncode == 0 else None
    assert environment()["git_commit"] == expected


def test_without_git_there_is_no_commit_and_no_failure(monkeypatch):
    monkeypatch.setenv("PATH", "")
    module._git.cache_clear()
    assert environment()["git_commit"] is None and environment()["git_dirty"] is None
    module._git.cache_clear()
