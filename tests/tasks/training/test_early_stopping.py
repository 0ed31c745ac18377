import copy
from dataclasses import dataclass, replace

import pytest
import torch
from digits_task import TASK
from torch import nn

from lowrank.metrics.metric import Metric
from lowrank.point import evaluate
from lowrank.recovery import FineTune, Gradual, InOrder, LearningCompression, Tune
from lowrank.tasks import Training, TrainingOptions, loss_metric
from lowrank.tasks.training.early_stopping import validation_value

RECIPE = Training(epochs=6, learning_rate=3e-3, batch_size=64)


class Scripted:
    """The digits, with a first metric that takes these values on validation, one for each look."""

    def __init__(self, values, higher_is_better=True):
        self.values = iter(values)
        self.metric = Metric("worth", "worth", "worth", higher_is_better=higher_is_better)

    def __getattr__(self, name):
        return getattr(TASK, name)

    def judged_by(self):
        return (self.metric, loss_metric())

    def metrics(self):
        value = next(self.values)

        class Given:
            def compute(self):
                return {"worth": torch.tensor(value)}

        return Given()

    def count(self, metrics, outputs, targets):
        pass


def states(epochs):
    """The weights before training and after each epoch, of a training that runs to the end."""
    model, found = TASK.model(), []

    def keep(*said):
        found.append(copy.deepcopy(model.state_dict()))

    keep()
    RECIPE.train(model, TASK, progress=keep)
    return found[: epochs + 1]


def is_state(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "values, higher, patience, epochs, best",
    [
        ([0.1, 0.5, 0.4, 0.4], True, 2, 3, 1),
        ([0.1, 0.5, 0.5, 0.5], True, 2, 3, 1),  # An equal value is no better one.
        ([0.9, 0.5, 0.4], True, 2, 2, 0),  # The model as it was.
        ([0.9, 0.5, 0.6, 0.4, 0.5], False, 1, 2, 1),
        ([0.9, 0.5, 0.6, 0.4, 0.5, 0.6], False, 2, 5, 3),
        ([0.1, float("nan"), 0.2, float("nan"), 0.1], True, 2, 4, 2),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], True, 1, 6, 6),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.5], True, 1, 6, 5),
    ],
)
def test_the_best_weights_come_back_after_epochs_without_better_ones(
    values, higher, patience, epochs, best
):
    model, told = TASK.model(), []
    found = RECIPE.train(
        model,
        Scripted(values, higher),
        progress=lambda *said: told.append(said),
        options=TrainingOptions(patience=patience),
    )
    assert (found["epochs"], found["best_epoch"]) == (epochs, best)
    assert len(found["losses"]) == len(told) == epochs and told[-1][:2] == (epochs, 6)
    assert found["steps"] == epochs * -(-len(TASK.split("train")) // 64)
    expected = [None if value != value else pytest.approx(value) for value in values]
    assert found["validation"] == {"metric": "worth", "values": expected[: epochs + 1]}
    assert is_state(model, states(6)[best])


def test_it_is_the_metric_of_the_task_on_the_validation_split():
    model = TASK.model()
    found = RECIPE.train(model, TASK, options=TrainingOptions(patience=2))
    quality = evaluate(model, TASK, "validation").metrics
    chosen = found["validation"]
    assert chosen["metric"] == TASK.judged_by()[0].name == "top1"
    assert chosen["values"][found["best_epoch"]] == pytest.approx(quality["top1"])
    assert max(chosen["values"]) == chosen["values"][found["best_epoch"]]
    assert validation_value(model, TASK, "loss") == pytest.approx(quality["loss"], rel=1e-6)


def test_statistics_of_batchnorm_are_those_of_the_best_epoch():
    values = [0.1, 0.5, 0.4, 0.4]
    model = nn.Sequential(TASK.model(), nn.BatchNorm1d(10))
    kept = []

    def keep(*said):
        kept.append(copy.deepcopy(model.state_dict()))

    RECIPE.train(model, Scripted(values), progress=keep, options=TrainingOptions(patience=2))
    assert is_state(model, kept[0]) and not is_state(model, kept[1])
    assert not torch.equal(kept[0]["1.running_mean"], kept[2]["1.running_mean"])


def test_without_patience_validation_is_not_looked_at(monkeypatch):
    model, asked = TASK.model(), set()
    split = type(TASK).split

    def noted(self, name):
        asked.add(name)
        return split(self, name)

    monkeypatch.setattr(type(TASK), "split", noted)
    FineTune(1, 1e-3).recover(model, TASK)
    assert asked == {"train"}
    FineTune(1, 1e-3, patience=1).recover(model, TASK)
    assert asked == {"train", "validation"}


def test_a_record_says_on_which_split_the_epoch_was_chosen():
    assert FineTune(1, 1e-3).learns_from == "train"
    assert FineTune(1, 1e-3, patience=1).learns_from == "validation"
    assert InOrder([Tune(), FineTune(1, 1e-3, patience=1)]).learns_from == "validation"


@dataclass(frozen=True)
class WithoutValidation:
    """A task whose validation split is empty."""

    name, device = "lost", "cpu"

    def judged_by(self):
        return (loss_metric(minor=False),)

    def split(self, name):
        return range(0 if name == "validation" else 9)


def test_what_cannot_stop_early_is_refused_before_training():
    options = TrainingOptions(patience=3)
    with pytest.raises(ValueError, match="patience=3: the validation split of task 'lost' is empt"):
        options.check_task(WithoutValidation())
    distance = Scripted([])
    distance.metric = replace(distance.metric, dense=0.0)
    with pytest.raises(ValueError, match="judges by 'worth', a distance to the dense model, which"):
        FineTune(1, 0.1, patience=3).check_data(distance)
    with pytest.raises(ValueError, match="patience=3 would end Gradual before the model is comp"):
        Gradual(10, 0.1, patience=3)
    with pytest.raises(ValueError, match="patience=3 would end LearningCompression before"):
        LearningCompression(20, 0.1, patience=3)
    with pytest.raises(ValueError, match="left_rate=2 has no effect: dense weights are trained"):
        LearningCompression(20, 0.1, left_rate=2)
    unmeasured = Scripted([0.5] * 9)
    unmeasured.metric = replace(unmeasured.metric, name="other")
    with pytest.raises(ValueError, match="judges by 'other', which it lacks: its metrics do not"):
        RECIPE.train(TASK.model(), unmeasured, options=options)
