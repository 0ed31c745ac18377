"""Exports that are killed leave nothing that looks whole, and nothing in the way of the next."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("killed_program.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each kill has a forked process")
def test_a_killed_export_leaves_nothing_and_is_made_again(tmp_path):
    pytest.importorskip("gguf")
    ran = subprocess.run(
        [sys.executable, PROGRAM, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found.keys() == {"dense", "hf", "gguf", "peft", "peft, packed"}
    for name, one in found.items():
        assert set(one["killed"]) == {-9}, name
        assert not any(one["halves"]), name
        assert one["again"] == 0 and one["same files"], name
        assert one["left"] == ["out", "whole"], name
