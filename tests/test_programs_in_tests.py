"""The programs of other tests: what becomes of one that hangs, and of a module misspelt."""

import os
import subprocess

import programs
import pytest

HANGS = """
import subprocess
print("said", flush=True)
subprocess.run(["sh", "-c", "echo began; sleep 20; echo lived"], stdout=open("pipe", "w"))
"""


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    with pytest.raises(subprocess.TimeoutExpired) as error:
        programs.run("-c", HANGS, cwd=tmp_path, timeout=2, imported=())
    assert error.value.stdout == "said\n"
    with open(reader) as pipe:
        # It ends once nobody is left who could write.
        assert pipe.read() == "began\n"


def test_a_module_that_is_not_in_its_package_is_an_error(capfd):
    with pytest.raises((AssertionError, BrokenPipeError)):
        programs.run("-c", "", imported=("json.nothing",))
    assert "No module named 'json.nothing'" in capfd.readouterr().err
    assert programs.run("-c", "", imported=("nothing.at.all",)).returncode == 0
