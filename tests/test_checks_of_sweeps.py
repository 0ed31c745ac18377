"""What is remembered of checks, and what is said of errors that are not ours."""

import gc
import traceback
import weakref
from types import SimpleNamespace

import pytest
from page_commands import check_sweep

from experiments import plan
from experiments.checks import remembering


class Held:
    """Something large that a frame holds."""


def test_a_remembered_error_does_not_grow_and_holds_nothing_that_was_being_made():
    seen, calls = [], []

    def inner(held):
        raise KeyError("x")

    @remembering(4)
    def check(text):
        calls.append(text)
        held = Held()
        seen.append(weakref.ref(held))
        try:
            inner(held)
        except KeyError as error:
            raise ValueError("no") from error

    lengths = []
    for _ in range(20):
        with pytest.raises(ValueError, match="no") as caught:
            check("a")
        frames = traceback.extract_tb(caught.value.__traceback__)
        lengths.append(len(frames))
        # Where it came from is still said.
        assert "check" in [frame.name for frame in frames]
        del caught
    assert calls == ["a"] and len(set(lengths)) == 1
    gc.collect()
    assert seen[0]() is None


def checked(error):
    """What the check of two points says where each raises an error."""

    def check_one(settings):
        raise error

    jobs = [SimpleNamespace(settings={}, overrides=[f"method.rank={r}"]) for r in (1, 2)]
    with pytest.raises(SystemExit) as caught:
        plan._each(jobs, check_one)  # type: ignore[arg-type]
    return str(caught.value)


def test_an_error_that_is_not_ours_is_said_with_its_place_once(capsys):
    assert "KeyError: 'x'" in checked(KeyError("x"))
    said = capsys.readouterr().err
    assert said.count("Traceback") == 1 and "in check_one" in said


def test_an_error_of_ours_is_one_line(capsys):
    assert checked(ValueError("rank=0")).endswith("method.rank=1: rank=0")
    assert capsys.readouterr().err == ""


def test_steps_of_a_recovery_are_checked_in_their_order():
    # The first step begins with the dense model. Sorted by their names it would be the third.
    check_sweep("task=digits", "method=magnitude", "recovery=deep_compression")
