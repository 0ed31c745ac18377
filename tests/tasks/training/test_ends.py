"""What a training leaves behind: finite weights or an error, and every module in its mode."""

import pytest
import torch
from digits_task import TASK
from torch import nn

from lowrank.recovery import FineTune
from lowrank.tasks import ImageClassification, Training, resumable
from lowrank.tasks.training import early_stopping
from lowrank.tasks.training.training import task_loss

ONE_STEP = {"batch_size": 10**5, "optimizer": "sgd", "schedule": "constant"}


def test_a_last_step_that_destroys_the_weights_ends_in_an_error(tmp_path):
    """The loss before the only step is finite; gone on with, the training ends so again."""
    recipe, own = Training(1, 1e30, **ONE_STEP), task_loss(TASK)
    for _ in range(2):
        with resumable(tmp_path, seconds=0):
            with pytest.raises(FloatingPointError, match="became NaN or infinite in epoch 1"):
                recipe.train(TASK.model(), TASK, lambda model, batch: 1e30 * own(model, batch))


@pytest.mark.parametrize("train", [True, False])
def test_every_module_keeps_its_mode(train):
    model = TASK.model().train(train)
    model.fc2.train(not train)
    FineTune(1, 1e-3, batch_size=256).recover(model, TASK)
    assert (model.training, model.fc1.training, model.fc2.training) == (train, train, not train)


def test_a_batchnorm_in_evaluation_keeps_its_statistics_in_a_model_in_training():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).train()
    model[1].eval()
    before = model[1].running_mean.clone()
    Training(1, 1e-3, batch_size=256).train(model, TASK)
    assert torch.equal(model[1].running_mean, before)
    Training(1, 1e-3, batch_size=256).train(model.eval(), TASK)
    assert not torch.equal(model[1].running_mean, before)


def test_a_metric_that_is_never_defined_does_not_undo_a_training(monkeypatch):
    monkeypatch.setattr(early_stopping, "validation_value", lambda *_: float("nan"))
    task = ImageClassification(
        **{n: getattr(TASK, n) for n in TASK.__dataclass_fields__} | {"validation_size": 90}
    )
    with pytest.raises(ValueError, match="is NaN or infinite before training and after each of 2"):
        FineTune(5, 1e-3, batch_size=256, patience=2).recover(task.model(), task)


def test_a_last_batch_of_one_that_a_batchnorm_cannot_take_is_named():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    size = len(TASK.split("train")) - 1
    with pytest.raises(ValueError, match="a single example, which a BatchNorm .* batch_size"):
        Training(1, 1e-3, batch_size=size).train(model, TASK)
    Training(1, 1e-3, batch_size=size - 1).train(model, TASK)
