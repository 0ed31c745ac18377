"""What the sweep program says of itself, and of what is wrong there."""

import subprocess

import pytest
from sweeps import ROOT, command, environment, run


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("task=nothere", "Could not find 'task/nothere'"),
        ("decomposer.rnk=4", "Could not override 'decomposer.rnk'"),
        ("decomposer.rank=[", "no viable alternative"),
    ],
)
def test_help_on_what_is_not_there_says_so_without_a_traceback(cache, option, says):
    done = run(cache, "--help", option)
    assert done.returncode == 1
    assert says in done.stderr and "Traceback" not in done.stderr


def test_a_reader_of_the_help_may_stop(cache):
    process = subprocess.Popen(
        command("--help"),
        cwd=ROOT,
        env=environment(cache) | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 1
