"""What the sweep program says of itself, and of what is wrong there."""

import subprocess
import sys

import pytest
from sweeps import ROOT, environment


def helped(cache, *options):
    """The program, asked for help."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.sweep", "--help", *options],
        cwd=ROOT,
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("task=nothere", "Could not find 'task/nothere'"),
        ("method.rnk=4", "Could not override 'method.rnk'"),
        ("method.rank=[", "no viable alternative"),
    ],
)
def test_help_on_what_is_not_there_says_so_without_a_traceback(cache, option, says):
    process = helped(cache, option)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert says in errors and "Traceback" not in errors


def test_a_reader_of_the_help_may_stop(cache):
    with helped(cache) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
