from pathlib import Path

import pytest
import torch
from torch import nn

from lowrank.recovery import BatchNormReestimation, NoRecovery
from lowrank.tasks import Digits, ImageClassification, Trained, Training

CONF = Path(__file__).parents[2] / "conf" / "recovery"


def task(builder="lowrank.tasks.networks.convolutional:small_cnn", **options):
    settings = {
        "name": "digits",
        "architecture": "cnn",
        "source": Digits(),
        "builder": builder,
        "weights": Trained(Training(epochs=2, learning_rate=3e-3, batch_size=64)),
        "validation_size": 180,
        "calibration_size": 256,
    }
    return ImageClassification(**(settings | options))


def normalising():
    """BatchNorm sees the inputs themselves."""
    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))


NORMALISING = task(f"{__name__}:normalising", weights=None)


def scrambled(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(3.0)
            module.running_var.fill_(9.0)
    return model


def accuracy(model, task):
    batch = next(task.split("test").batches(360))
    inputs, targets = batch.only, batch.targets
    with torch.no_grad():
        return float((model(inputs).argmax(1) == targets).float().mean())


def test_one_batch_gives_the_exact_statistics_of_the_data():
    model = scrambled(NORMALISING.model())
    train = NORMALISING.split("train")
    record = BatchNormReestimation(1, len(train)).recover(model, NORMALISING)
    inputs = next(train.batches(len(train))).only
    assert float(model[0].running_mean) == pytest.approx(float(inputs.double().mean()), rel=1e-5)
    assert float(model[0].running_var) == pytest.approx(float(inputs.double().var()), rel=1e-5)
    assert record == {"batchnorm_layers": 1, "examples": len(train)}


def test_several_batches_give_the_plain_averages():
    model = scrambled(NORMALISING.model())
    BatchNormReestimation(9, 100).recover(model, NORMALISING)
    batches = list(NORMALISING.split("train").batches(100, NORMALISING.seed))[:9]
    means = torch.stack([batch.only.double().mean() for batch in batches])
    variances = torch.stack([batch.only.double().var() for batch in batches])
    assert float(model[0].running_mean) == pytest.approx(float(means.mean()), rel=1e-5)
    assert float(model[0].running_var) == pytest.approx(float(variances.mean()), rel=1e-5)


def test_it_brings_back_what_wrong_statistics_cost():
    cnn = task()
    model = cnn.model()
    before = accuracy(model, cnn)
    assert accuracy(scrambled(model), cnn) < before - 0.2
    BatchNormReestimation(12, 100).recover(model, cnn)
    assert accuracy(model, cnn) > before - 0.03


def test_only_the_statistics_change():
    cnn = task()
    model, before = cnn.model(), cnn.model().state_dict()
    model[0].requires_grad_(False)
    model[1].momentum = 0.3
    model[4].train()
    random = torch.random.get_rng_state()
    BatchNormReestimation(3, 50).recover(model, cnn)
    changed = {
        name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])
    }
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"{layer}.{kind}" for layer in ("bn1", "bn2") for kind in kinds}
    assert [module.training for module in model[:5]] == [False, False, False, False, True]
    assert (model[1].momentum, model[4].momentum) == (0.3, 0.1)
    assert not model[0].weight.requires_grad and model[3].weight.requires_grad
    assert torch.equal(torch.random.get_rng_state(), random)


def test_the_same_seed_gives_the_same_statistics():
    def means(seed):
        model = task().model()
        BatchNormReestimation(3, 50).recover(model, task(seed=seed))
        return model[1].running_mean

    assert torch.equal(means(0), means(0))
    assert not torch.equal(means(0), means(1))


def test_a_model_without_batchnorm():
    mlp = task(
        "lowrank.tasks.networks.multilayer:mlp", arguments={"widths": [64, 10]}, weights=None
    )
    with pytest.raises(ValueError, match="no BatchNorm with running statistics"):
        BatchNormReestimation(1, 50).recover(mlp.model(), mlp)
    with pytest.raises(ValueError, match="no BatchNorm with running statistics"):
        BatchNormReestimation(1, 50).check(mlp.network())


def test_a_network_with_batchnorm_passes_its_check():
    cnn = task("lowrank.tasks.networks.convolutional:small_cnn", weights=None)
    BatchNormReestimation(1, 50).check(cnn.network())


def test_more_examples_than_there_are():
    with pytest.raises(ValueError, match="need 1300 examples, and the train split has 1257"):
        BatchNormReestimation(13, 100).recover(NORMALISING.model(), NORMALISING)
    with pytest.raises(ValueError, match="need 1300 examples, and the train split has 1257"):
        BatchNormReestimation(13, 100).check_data(NORMALISING)


@pytest.mark.parametrize(
    "batches, batch_size, message",
    [
        (0, 100, "batches=0 must be at least 1"),
        (1.5, 100, "batches=1.5 must be .* an integer"),
        (1, 1, "batch_size=1 must be at least 2"),
    ],
)
def test_bad_options(batches, batch_size, message):
    with pytest.raises(ValueError, match=message):
        BatchNormReestimation(batches, batch_size)


def test_no_recovery_changes_nothing():
    model, before = NORMALISING.model(), NORMALISING.model().state_dict()
    assert NoRecovery().recover(model, NORMALISING) == {}
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", sorted(file.stem for file in CONF.glob("*.yaml")))
def test_every_config_runs_on_the_digits(name):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    recovery = instantiate(OmegaConf.load(CONF / f"{name}.yaml"), _convert_="all")
    recovery.recover(NORMALISING.model(), NORMALISING)
