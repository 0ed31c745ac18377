from dataclasses import replace

import pytest
import torch
from torch import nn

from lowrank.tasks import (
    Digits,
    ImageClassification,
    Inverted,
    Trained,
    TrainedOn,
    Training,
)

BASE = ImageClassification(
    name=None,
    architecture="mlp",
    source=Digits(),
    builder="lowrank.tasks.networks.multilayer:mlp",
    arguments={"widths": [64, 8, 10]},
    weights=Trained(Training(epochs=1, learning_rate=3e-3, batch_size=256)),
)
OTHER = replace(BASE, source=Inverted(Digits()), weights=TrainedOn(BASE))


def same(one: nn.Module, other: nn.Module) -> bool:
    both = one.state_dict(), other.state_dict()
    return both[0].keys() == both[1].keys() and all(
        torch.equal(tensor, both[1][name]) for name, tensor in both[0].items()
    )


def test_it_begins_with_the_model_of_the_other_task_to_the_bit():
    assert OTHER.name == "digits-inverted"
    assert same(OTHER.model(), BASE.model())
    assert not torch.equal(
        next(OTHER.split("test").batches(9)).only, next(BASE.split("test").batches(9)).only
    )


def test_the_seed_of_the_task_draws_the_base_whatever_seed_that_has():
    seeded = replace(OTHER, seed=2)
    assert same(seeded.model(), replace(BASE, seed=2).model())
    assert not same(seeded.model(), OTHER.model())
    assert same(replace(OTHER, weights=TrainedOn(replace(BASE, seed=5))).model(), OTHER.model())


def test_the_base_is_trained_once_for_all_tasks(monkeypatch):
    trained = []
    train = Training.train
    monkeypatch.setattr(Training, "train", lambda *given: trained.append(1) or train(*given))
    for task in (OTHER, BASE, replace(OTHER, split_seed=1)):
        task.model()
    assert len(trained) == 1


def test_a_base_may_have_a_base():
    third = replace(OTHER, source=Inverted(Inverted(Digits())), weights=TrainedOn(OTHER))
    assert third.draws_model
    assert same(third.model(), BASE.model())


def test_another_network_is_refused_before_the_base_is_trained(monkeypatch):
    monkeypatch.setattr(Training, "train", None)
    wider = replace(OTHER, arguments={"widths": [64, 9, 10]})
    with pytest.raises(ValueError, match="begin with the model of task 'digits': .*fc1.bias"):
        wider.model()


def test_the_base_is_checked_with_the_task():
    small = replace(BASE, validation_size=5000)
    with pytest.raises(ValueError, match="validation_size=5000"):
        replace(OTHER, weights=TrainedOn(small)).check()
    OTHER.check()


DIGITS_TASKS = ["digits_rotated", "digits_inverted", "digits_permuted", "digits_noisy"]
MNIST_TASKS = ["mnist_rotated", "mnist_inverted", "mnist_permuted", "mnist_noisy"]


@pytest.mark.parametrize("name", [*DIGITS_TASKS, *MNIST_TASKS])
def test_the_tasks_of_a_base_differ_from_it_in_images_alone(name):
    from test_image_classification import compose

    base = compose(f"+task={name.partition('_')[0]}", "task.seed=3")
    task = compose(f"+task={name}", "task.seed=3")
    assert task.weights == TrainedOn(base)
    assert task.source.source == base.source
    assert replace(task, source=base.source, weights=base.weights) == base
    assert task.name == f"{base.name}-{name.partition('_')[2]}"
