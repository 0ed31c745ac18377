"""Tunings that are killed, and go on."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hostile
import pytest
import torch
from digits_task import TASK

from lowrank.compression.compress import compress
from lowrank.decomposers import HQQ, LowRankPlusSparse
from lowrank.files.tensor_files import opened, write
from lowrank.recovery import BiasCorrection, FineTune, InOrder, Tune
from lowrank.tasks import Inverted, resumable

EVERY = ("scales", "codes", "biases", "values")
TUNE = Tune(epochs=3, batch_size=8, parts=EVERY, code_rate=0.05)
PER_EPOCH = 6
METHODS = {"fc1": HQQ(2, group_size=16), "fc2": LowRankPlusSparse(2, 0.5)}


class Killed(BaseException):
    """The end of a process, in one."""


def compressed():
    torch.manual_seed(0)
    return compress(TASK.model(), METHODS)


def is_same(result, other):
    state, theirs = result.model.state_dict(), other.model.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in state.items())


def killed_after(count):
    """The task, whose distance ends the process at the step after `count` others."""

    class Ending(type(TASK)):
        def distance(self, outputs, wanted, batch):
            if torch.is_grad_enabled():
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return super().distance(outputs, wanted, batch)

    left = [count]
    return Ending(**{name: getattr(TASK, name) for name in TASK.__dataclass_fields__})


def interrupted(folder, count=PER_EPOCH + 1, recovery=TUNE):
    """What is left of a tuning that was killed."""
    result = compressed()
    with pytest.raises(Killed), resumable(folder, seconds=0):
        recovery.recover_compressed(result, killed_after(count))
    return folder / "training-0.safetensors"


# These end in the midst of an epoch, at its end and at the start of the next.
@pytest.mark.parametrize("count", [1, PER_EPOCH, PER_EPOCH + 1, 3 * PER_EPOCH - 1])
def test_it_ends_with_the_numbers_of_one_that_was_not_killed(count, tmp_path):
    whole, again = compressed(), compressed()
    expected = TUNE.recover_compressed(whole, TASK)
    assert expected["steps"] == 3 * PER_EPOCH and expected["kept_epoch"] > 0
    path = interrupted(tmp_path, count)
    header = json.loads(hostile.split(path.read_bytes())[0]["__metadata__"]["lowrank"])
    assert PER_EPOCH * header["state"]["epoch"] + header["state"]["step"] == count
    with resumable(tmp_path, seconds=0):
        found = TUNE.recover_compressed(again, TASK)
    assert is_same(again, whole) and not is_same(again, compressed())
    assert found.pop("step_s") > 0 and expected.pop("step_s") > 0
    assert found == expected
    assert not any(buffer.requires_grad for buffer in again.model.buffers())


def test_recoveries_in_order_go_on_in_the_tuning(tmp_path):
    train = FineTune(1, 1e-3, batch_size=256)
    order = InOrder([BiasCorrection(), replace(train, epochs=2), TUNE, train])
    whole, again = compressed(), compressed()
    order.recover_compressed(whole, TASK)
    interrupted(tmp_path, 5, order)
    assert len(list(tmp_path.iterdir())) == 2
    told = []
    with resumable(tmp_path, seconds=0):
        order.recover_compressed(again, TASK, lambda *said: told.append(said[:2]))
    assert is_same(again, whole) and told == [(1, 3), (2, 3), (3, 3), (1, 1)]


def test_what_was_done_is_not_done_again(tmp_path):
    first, second, told = compressed(), compressed(), []
    with resumable(tmp_path, seconds=0):
        found = TUNE.recover_compressed(first, TASK)
    with resumable(tmp_path, seconds=0):
        again = TUNE.recover_compressed(second, TASK, lambda *said: told.append(said))
    assert again == found and is_same(first, second) and not told


def test_what_did_not_help_is_not_taken_after_a_kill_either(tmp_path):
    wild = replace(TUNE, learning_rate=3.0)
    interrupted(tmp_path, 2 * PER_EPOCH, wild)
    result = compressed()
    with resumable(tmp_path, seconds=0):
        found = wild.recover_compressed(result, TASK)
    assert found["kept_epoch"] == 0 and is_same(result, compressed())


@pytest.mark.parametrize(
    "other, differs",
    [
        (lambda: (replace(TUNE, learning_rate=0.1), compressed(), TASK), "options"),
        (lambda: (TUNE, compressed(), replace(TASK, name="others")), "task"),
        (lambda: (TUNE, compressed(), replace(TASK, source=Inverted(TASK.source))), "task"),
        (lambda: (TUNE, compress(compressed().dense, HQQ(3)), TASK), "model"),
        (lambda: (FineTune(1, 0.1), compressed(), TASK), "dense, epochs, options, task"),
    ],
    ids=["rate", "task", "data", "form", "recovery"],
)
def test_the_state_of_another_recovery_is_refused(other, differs, tmp_path):
    interrupted(tmp_path)
    recovery, result, task = other()
    with pytest.raises(ValueError, match=rf"state of another .* in {differs}: delete it"):
        with resumable(tmp_path, seconds=0):
            recovery.recover_compressed(result, task)


FORGED = {
    "epoch": (lambda state, _: state.update(epoch=4), "state.epoch is 4: it must be an integer of"),
    "step": (lambda state, _: state.update(step=7), "state.step is 7: it must be an integer of at"),
    "peak": (lambda state, _: state.update(peak=None), "state.peak is None"),
    "distances": (lambda state, _: state.update(distances=[1]), "it must be 2 finite numbers"),
    "done": (lambda state, _: state.update(found={}), "it has '.*, which this training has not"),
    "no numbers": (lambda _, tensors: tensors.pop("numbers.0"), r"it lacks \['numbers.0'\]"),
    "no best": (lambda _, tensors: tensors.pop("best.1"), r"it lacks \['best.1'\]"),
    "half": (lambda _, tensors: tensors.pop("optimizer.0.exp_avg"), "it lacks a part of the optim"),
    "shape": (lambda _, t: t.update({"best.0": torch.zeros(3)}), "'best.0' is .*3.* in the file"),
}


@pytest.mark.parametrize("change, text", FORGED.values(), ids=FORGED.keys())
def test_a_forged_state_is_refused_and_changes_nothing(change, text, tmp_path):
    path = interrupted(tmp_path)
    with opened(path, "training", 2, "") as file:
        header, tensors = json.loads(json.dumps(dict(file.header))), file.read()[0]
    change(header["state"], tensors)
    parts = {name: header[name] for name in ("format", "made_for", "state")}
    write(path, tensors, "training", parts)
    result = compressed()
    with pytest.raises(ValueError, match=text), resumable(tmp_path):
        TUNE.recover_compressed(result, TASK)
    assert is_same(result, compressed())
    assert not any(buffer.requires_grad for buffer in result.model.buffers())


KILLED = """
import os, signal, sys, torch
from test_resumed_tuning import TASK, TUNE, compressed
from lowrank.tasks import resumable

def end(done, *said):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(int(sys.argv[2]))
with resumable(sys.argv[1], seconds=0):
    TUNE.recover_compressed(compressed(), TASK, end)
"""


def test_a_process_that_is_killed_goes_on_with_the_same_numbers(tmp_path):
    """SIGKILL in the midst of tuning."""
    states, tests = tmp_path / "states", Path(__file__).parents[1]
    path = [str(tests), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(states), str(torch.get_num_threads())],
        cwd=tests.parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
    )
    assert ended.returncode == -signal.SIGKILL
    whole, again, told = compressed(), compressed(), []
    with resumable(states, seconds=0):
        TUNE.recover_compressed(again, TASK, lambda done, *said: told.append(done))
    assert told == [2, 3]
    TUNE.recover_compressed(whole, TASK)
    assert is_same(again, whole)
