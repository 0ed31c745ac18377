"""The bar of a training, on a terminal and elsewhere."""

import io
import re
from types import SimpleNamespace

import pytest
import torch
from digits_task import TASK

from lowrank.recovery import Gradual
from lowrank.tasks import Training
from lowrank.tasks.training import bar as bar_module
from lowrank.tasks.training.bar import TrainingBar

RECIPE = Training(epochs=2, learning_rate=1e-3, batch_size=256)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    shown = Terminal()
    # Not that of this process, which pytest replaces between fixtures and tests.
    monkeypatch.setattr(bar_module, "sys", SimpleNamespace(stderr=shown))
    monkeypatch.setattr(bar_module, "PAUSE", 0.0)
    return shown


def test_a_terminal_shows_epochs_steps_loss_and_time(terminal):
    found = RECIPE.train(TASK.model(), TASK)
    lines = terminal.getvalue().split("\r")
    assert found["steps"] == 12 and any(" 5/12 [00:0" in line for line in lines)
    (loss,) = {re.search(r"epoch 1/2, loss (\S+)\]", line)[1] for line in lines if " 1/12 " in line}
    assert 1.5 < float(loss) < 3
    assert any("epoch 2/2" in line and " 12/12 " in line for line in lines)
    # Nothing of it is left on the line that a sweep then prints.
    assert not lines[-1].strip() and not lines[-2].strip() and "\n" not in terminal.getvalue()


def test_a_training_in_several_calls_shows_the_place_in_the_whole(terminal):
    Gradual(4, 1e-3, batch_size=256, renewals=2, every=2).recover(TASK.model(), TASK)
    places = [int(n) for n in re.findall(r" (\d+)/24 \[", terminal.getvalue())]
    assert places == sorted(places) and {1, 12, 13, 24} <= set(places)
    assert "epoch 3/4" in terminal.getvalue()


def test_what_is_no_terminal_sees_nothing(capsys):
    RECIPE.train(TASK.model(), TASK)
    assert capsys.readouterr() == ("", "")


def test_the_bar_goes_away_with_an_error(terminal):
    with pytest.raises(ArithmeticError), TrainingBar(1, 5, 0) as bar:
        bar.step(torch.tensor(1.0))
        raise ArithmeticError
    assert not terminal.getvalue().split("\r")[-1].strip()
