"""Trainings that are killed, and go on."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hostile
import pytest
import torch
from digits_task import TASK
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import LoRA, MagnitudePruning, TruncatedSVD
from lowrank.export.checkpoint import save
from lowrank.files.tensor_files import opened, write
from lowrank.model.batch import Batch
from lowrank.recovery import FineTune, Gradual, InOrder, LearningCompression
from lowrank.tasks import Inverted, Split, Trained, Training, resumable
from lowrank.tasks.training.loop import known_by

RECIPE = FineTune(epochs=3, learning_rate=3e-3, batch_size=256, weight_decay=0.01)
PER_EPOCH = 6
SGD = {"optimizer": "sgd", "learning_rate": 0.03}


class Killed(BaseException):
    """The end of a process, in one."""


def network():
    """With what a training changes beside parameters: dropout draws, BatchNorm counts."""
    torch.manual_seed(0)
    model = TASK.model()
    return nn.Sequential(model, nn.BatchNorm1d(10), nn.Dropout(0.2), nn.Linear(10, 10))


def is_same(model, other):
    state, theirs = model.state_dict(), other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in state.items())


def killed_after(count, task):
    """The task, whose loss ends the process at the call after `count` others."""

    class Ending(type(task)):
        def loss(self, outputs, targets):
            if torch.is_grad_enabled():
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return super().loss(outputs, targets)

    left = [count]
    return Ending(**{name: getattr(task, name) for name in task.__dataclass_fields__})


# These end in the midst of an epoch, at its end and at the start of the next.
@pytest.mark.parametrize("count", [1, PER_EPOCH, PER_EPOCH + 1, 2 * PER_EPOCH + 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        SGD,
        SGD | {"momentum": 0.0},
        {"patience": 1},
        {"accumulate": 3},
        {"autocast": "bfloat16"},
        {"autocast": "float16"},
        {"distill": 0.5, "temperature": 2.0},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_it_ends_with_the_weights_of_one_that_was_not_killed(count, options, tmp_path):
    recipe = replace(RECIPE, **options)
    whole, model, again = network(), network(), network()
    dense = network().eval()
    expected = recipe.recover_toward(whole, dense, TASK)
    each = recipe.accumulate
    with pytest.raises(Killed), resumable(tmp_path, seconds=0):
        recipe.recover_toward(model, dense, killed_after(count * each, TASK), lambda *said: None)
    (path,) = tmp_path.iterdir()
    header = json.loads(hostile.split(path.read_bytes())[0]["__metadata__"]["lowrank"])
    assert PER_EPOCH * header["state"]["epoch"] + header["state"]["step"] == count
    # Nothing but the file goes on: the generators of this process have moved.
    torch.rand(7)
    with resumable(tmp_path, seconds=0):
        found = recipe.recover_toward(again, dense, TASK)
    assert is_same(again, whole) and not is_same(again, network())
    for record in (found, expected):
        record.pop("step_s")
    assert found == expected


@pytest.mark.parametrize(
    "recovery",
    [
        Gradual(4, 3e-3, batch_size=256, renewals=3),
        Gradual(4, 3e-3, batch_size=256, renewals=2, every=2, restarts=True),
        LearningCompression(4, 0.03, batch_size=256, optimizer="sgd", steps=2),
        InOrder([FineTune(2, 3e-3, batch_size=256), FineTune(2, 1e-3, batch_size=256)]),
    ],
    ids=["gradual", "restarts", "lc", "in order"],
)
def test_recoveries_of_several_trainings_go_on_in_the_one_that_was_killed(recovery, tmp_path):
    def compressed():
        return compress(TASK.model(), MagnitudePruning(0.8), example=TASK.example())

    whole, killed, again = compressed(), compressed(), compressed()
    recovery.recover_compressed(whole, TASK)
    with pytest.raises(Killed), resumable(tmp_path, seconds=0):
        recovery.recover_compressed(killed, killed_after(14, TASK))
    assert len(list(tmp_path.iterdir())) > 1
    steps = []
    counted = replace(TASK)
    object.__setattr__(counted, "loss", lambda *given: steps.append(1) or TASK.loss(*given))
    with resumable(tmp_path, seconds=0):
        recovery.recover_compressed(again, counted)
    assert is_same(again.model, whole.model) and len(steps) == 4 * PER_EPOCH - 14


def test_what_was_done_is_not_done_again(tmp_path):
    first, second = TASK.model(), TASK.model()
    told = []
    with resumable(tmp_path, seconds=0):
        found = RECIPE.recover(first, TASK)
    with resumable(tmp_path, seconds=0):
        again = RECIPE.recover(second, TASK, lambda *said: told.append(said))
    assert again == found and is_same(first, second) and not told


def test_a_short_training_writes_nothing(tmp_path):
    with resumable(tmp_path / "states"):
        RECIPE.recover(TASK.model(), TASK)
    assert not (tmp_path / "states").exists()


def test_nothing_is_written_outside_of_the_block(tmp_path):
    with resumable(tmp_path, seconds=0):
        pass
    RECIPE.recover(TASK.model(), TASK)
    assert not list(tmp_path.iterdir())


def test_a_dense_model_trained_on_the_way_does_not_count(tmp_path, monkeypatch):
    """Its weights are in the cache the second time, and the first training stays the first."""
    monkeypatch.setenv("LOWRANK_CACHE", str(tmp_path / "cache"))
    task = replace(TASK, weights=Trained(Training(1, 1e-3, 256)))
    models = []
    for _ in range(2):
        with resumable(tmp_path / "states", seconds=0):
            models.append(task.model())
            RECIPE.recover(models[-1], task)
    assert is_same(*models)
    names = sorted(path.name for path in (tmp_path / "states").iterdir())
    assert names[1] == "training-0.safetensors" and names[0].startswith("model-")


@pytest.mark.parametrize(
    "other, differs",
    [
        (lambda: (replace(RECIPE, learning_rate=1e-3), TASK.model(), TASK), "options"),
        (lambda: (replace(RECIPE, patience=3), TASK.model(), TASK), "options"),
        (lambda: (RECIPE, TASK.model(), replace(TASK, calibration_size=32, seed=1)), "task"),
        (lambda: (RECIPE, compress(TASK.model(), LoRA(2, 4.0)).model, TASK), "model"),
        (lambda: (RECIPE, compress(TASK.model(), TruncatedSVD(2)).model, TASK), "model"),
        (lambda: (RECIPE, TASK.model(), replace(TASK, source=Inverted(TASK.source))), "task"),
    ],
    ids=["rate", "patience", "seed", "adapter", "form", "data"],
)
def test_the_state_of_another_training_is_refused(other, differs, tmp_path):
    with resumable(tmp_path, seconds=0):
        RECIPE.recover(TASK.model(), TASK)
    recipe, model, task = other()
    before = copy.deepcopy(model)
    text = rf"training-0.safetensors: it is the state of another .* in {differs}: delete it"
    with pytest.raises(ValueError, match=text), resumable(tmp_path, seconds=0):
        recipe.recover(model, task)
    assert is_same(model, before)


class Numbered(Split):
    """Examples that are their own numbers, or others in their place."""

    def __init__(self, numbers):
        self.numbers = torch.tensor(numbers)

    def __len__(self):
        return len(self.numbers)

    def batch(self, rows):
        return Batch((self.numbers[rows],), self.numbers[rows])


@pytest.mark.parametrize(
    "others",
    [
        [*range(20), *range(40, 60)],  # Others at the end.
        [*range(39), 7],  # Another last one.
        [*range(20), *range(39, 19, -1)],  # In another order at the end.
        [*range(4), *range(5, 40)],
        [*range(40), 40],
    ],
)
@pytest.mark.parametrize("count", [4, 39, 40, 99])
def test_data_are_known_by_examples_from_first_to_last(others, count):
    known = known_by(Numbered(range(40)), count, TASK)
    assert known == known_by(Numbered(range(40)), count, TASK)
    assert known != known_by(Numbered(others), count, TASK)


@pytest.mark.parametrize("length, count", [(1, 1), (1, 8), (2, 1), (3, 2)])
def test_few_data_are_known_too(length, count):
    assert known_by(Numbered(range(length)), count, TASK)["examples"] == length


def test_a_state_at_another_dropout_is_refused(tmp_path):
    for dropout in (0.1, 0.0):
        adapted = compress(TASK.model(), LoRA(2, 4.0, dropout=dropout)).model
        with resumable(tmp_path, seconds=0):
            if dropout:
                RECIPE.recover(adapted, TASK)
                continue
            with pytest.raises(ValueError, match="state of another .* in model: delete it"):
                RECIPE.recover(adapted, TASK)


def test_a_state_toward_another_dense_model_is_not_gone_on_from(tmp_path):
    recipe, dense = replace(RECIPE, distill=0.5), network().eval()
    other = copy.deepcopy(dense)
    nn.init.ones_(other[3].weight)
    with pytest.raises(Killed), resumable(tmp_path, seconds=0):
        recipe.recover_toward(network(), dense, killed_after(9, TASK), lambda *said: None)
    found, expected = network(), network()
    recipe.recover_toward(expected, other, TASK)
    with resumable(tmp_path, seconds=0):
        recipe.recover_toward(found, other, TASK)
    assert is_same(found, expected)


def interrupted(folder, recipe=RECIPE):
    """The file of a training that was killed."""
    with pytest.raises(Killed), resumable(folder, seconds=0):
        recipe.recover(network(), killed_after(7, TASK))
    return folder / "training-0.safetensors"


def test_a_pickle_in_its_place_is_never_opened(tmp_path):
    torch.save({"epoch": 1}, tmp_path / "training-0.safetensors")
    with pytest.raises(ValueError, match="is a pickle, as torch.save"), resumable(tmp_path):
        RECIPE.recover(network(), TASK)


def without(name):
    return lambda state, tensors: tensors.pop(name)


def with_tensor(name, tensor):
    return lambda state, tensors: tensors.update({name: tensor})


def with_state(**change):
    return lambda state, tensors: state.update(change)


FORGED = {
    "epoch": (with_state(epoch=9), "state.epoch is 9: it must be an integer of at least 0, at mo"),
    "more epochs than losses": (with_state(epoch=2), r"losses is \[.*\]: it must be 2 finite num"),
    "step": (with_state(step=7), "state.step is 7: it must be an integer of at least 0, at most 6"),
    "total": (with_state(total="1"), "state.total is '1'"),
    "losses": (with_state(losses=["a"]), r"losses is \['a'\]: it must be 1 finite numbers"),
    "looks": (with_state(validation=[0.1]), r"n is \[0.1\]: it must be 2 finite numbers or null"),
    "done": (with_state(found={"losses": []}), "it has 'best.*' of shape .* this training has not"),
    "no weights": (without("model.3.bias"), r"it lacks \['model.3.bias'\]"),
    "no generator": (without("random.cpu"), r"it lacks \['random.cpu'\]"),
    "no best weights": (without("best.3.bias"), r"it lacks \['best.3.bias'\]"),
    "half of the optimizer": (without("optimizer.0.exp_avg"), "it lacks a part of the optimizer"),
    "shape": (with_tensor("model.3.bias", torch.zeros(11)), "'model.3.bias' is .*11.* in the file"),
    "dtype": (with_tensor("model.3.bias", torch.zeros(10).long()), "int64.* in the file and"),
    "surplus": (with_tensor("more", torch.zeros(1)), "it has 'more' of shape"),
    "parameter": (with_tensor("optimizer.99.step", torch.zeros(())), "it has 'optimizer.99.step'"),
    "momentum": (with_tensor("optimizer.0.exp_avg", torch.zeros(7)), "it has 'optimizer.0.exp_a"),
    "part": (with_tensor("optimizer.0.m.n", torch.zeros(())), "it has 'optimizer.0.m.n' of shape"),
}


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """The parts of the file of a training that was killed."""
    path = interrupted(tmp_path_factory.mktemp("states"), replace(RECIPE, patience=5))
    with opened(path, "training", 2, "") as file:
        return json.loads(json.dumps(dict(file.header))), file.read()[0]


@pytest.mark.parametrize("change, text", FORGED.values(), ids=FORGED.keys())
def test_a_forged_state_is_refused(change, text, patient, tmp_path):
    header, tensors = copy.deepcopy(patient)
    change(header["state"], tensors)
    parts = {name: header[name] for name in ("format", "made_for", "state")}
    write(tmp_path / "training-0.safetensors", tensors, "training", parts)
    model = network()
    with pytest.raises(ValueError, match=text), resumable(tmp_path):
        replace(RECIPE, patience=5).recover(model, TASK)
    assert is_same(model, network())


def test_any_edit_of_a_file_is_refused_or_changes_nothing(tmp_path):
    path = interrupted(tmp_path)
    data, drawn = path.read_bytes(), random.Random(0)
    whole = network()
    RECIPE.recover(whole, TASK)
    for _ in range(60):
        damaged = bytearray(data)
        damaged[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
        path.write_bytes(damaged)
        model = network()
        try:
            with resumable(tmp_path):
                RECIPE.recover(model, TASK)
        except ValueError:
            continue
        assert is_same(model, whole)


KILLED = """
import sys, torch
from test_resuming import adapted, LONG, TASK
from lowrank.export.checkpoint import save
from lowrank.tasks import resumable

torch.set_num_threads(1)
model = adapted()
with resumable(sys.argv[1], seconds=0):
    LONG.recover(model, TASK, lambda done, *said: print(done, flush=True))
save(model, sys.argv[2])
"""
LONG = FineTune(8, 3e-3, batch_size=256, patience=7)


def adapted():
    torch.manual_seed(0)
    return compress(TASK.model(), LoRA(rank=4, alpha=8, dropout=0.3, init="pissa")).model


def test_a_process_that_is_killed_goes_on_with_the_same_weights(tmp_path):
    """SIGKILL in the midst of training."""
    saved, tests = tmp_path / "killed.safetensors", Path(__file__).parents[2]

    def start():
        arguments = [sys.executable, "-c", KILLED, str(tmp_path / "states"), str(saved)]
        path = os.pathsep.join(
            [str(tests), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        )
        given = os.environ | {"PYTHONPATH": path}
        return subprocess.Popen(
            arguments, cwd=tests.parent, env=given, stdout=subprocess.PIPE, text=True
        )

    process = start()
    assert next(int(line) for line in process.stdout if int(line) >= 3) == 3
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not saved.exists()
    last = start()
    told = [int(line) for line in last.communicate()[0].split()]
    assert told[0] >= 3 and last.returncode == 0
    whole = adapted()
    LONG.recover(whole, TASK)
    save(whole, tmp_path / "whole.safetensors")
    assert saved.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
