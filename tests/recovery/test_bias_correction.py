"""Correction of biases against its law: the means, and deviations, of the dense model's outputs."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import Quantization
from lowrank.measure.size import nbytes
from lowrank.recovery import BiasCorrection
from lowrank.tasks import Batch, Split, Task


@dataclass(frozen=True)
class Rows(Split):
    inputs: torch.Tensor
    padded: bool

    def __len__(self):
        return len(self.inputs)

    def batch(self, rows):
        inputs = self.inputs[rows]
        real = {0: torch.arange(inputs.shape[1]).expand(inputs.shape[:2]) < 3}
        return Batch((inputs,), inputs, real if self.padded else {})


@dataclass(frozen=True)
class Made(Task):
    """A network of `layers`, on numbers drawn; positions after the third are padding if `padded`.

    Only calibration data may be asked for.
    """

    layers: tuple
    shape: tuple
    padded: bool = False
    seed: int = 0
    device: str = "cpu"
    name = "made"
    architecture = "made"

    def network(self):
        torch.manual_seed(0)
        model = nn.Sequential(*(layer() for layer in self.layers)).double()
        with torch.no_grad():
            for number in [*model.parameters(), *model.buffers()]:
                if number.ndim == 1:
                    number.copy_(torch.rand(len(number)) + 0.5)
        return model

    def model(self):
        return self.network().eval()

    def split(self, name):
        assert name == "calibration"
        torch.manual_seed(1)
        return Rows(torch.randn(self.shape, dtype=torch.float64) + 1, self.padded)

    def loss(self, outputs, targets):
        raise NotImplementedError

    def metrics(self):
        raise NotImplementedError


MLP = Made((lambda: nn.Linear(8, 16), nn.ReLU, lambda: nn.Linear(16, 4)), (50, 8))
CNN = Made(
    (
        *(lambda: nn.Conv2d(2, 6, 3, bias=False), lambda: nn.BatchNorm2d(6), nn.ReLU),
        *(lambda: nn.Conv2d(6, 3, 3), lambda: nn.BatchNorm2d(3), nn.Flatten),
        lambda: nn.Linear(48, 5),
    ),
    (40, 2, 8, 8),
)
TEXT = Made(
    (lambda: nn.Linear(6, 6), lambda: nn.LayerNorm(6), nn.ReLU, lambda: nn.Linear(6, 3)),
    (30, 5, 6),
    padded=True,
)
TASKS = {"mlp": MLP, "cnn": CNN, "text": TEXT}


def compressed(task, bits=2):
    return compress(task.model(), Quantization(bits)).model.eval()


def outputs(model, task, index):
    """Of layer `index`, (positions, channels), without padding."""
    split = task.split("calibration")
    batch = split.batch(torch.arange(len(split)))
    with torch.no_grad():
        found = model[: index + 1](batch.only)
    if task.padded:
        return found[batch.real[0]]
    return found.movedim(1, -1).flatten(0, -2)


def with_bias(task):
    return [i for i, layer in enumerate(task.network()) if getattr(layer, "bias", None) is not None]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("gains", [True, False])
def test_every_layer_with_a_bias_gives_the_dense_means(task, gains):
    model, dense = compressed(task), task.model()
    last = with_bias(task)[-1]
    far = (outputs(model, task, last) - outputs(dense, task, last)).mean(0).abs().max()
    assert far > 0.01
    record = BiasCorrection(gains=gains).recover(model, task)
    for index in with_bias(task):
        ours, theirs = (outputs(m, task, index) for m in (model, dense))
        torch.testing.assert_close(ours.mean(0), theirs.mean(0), rtol=0, atol=1e-12)
        if gains and isinstance(dense[index], nn.BatchNorm2d | nn.LayerNorm):
            torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=1e-9, atol=0)
    count = len(task.split("calibration"))
    assert record == {"corrected_layers": len(with_bias(task)), "examples": count}


def test_of_one_layer_it_is_the_error_times_the_mean_input():
    task = Made((lambda: nn.Linear(8, 4),), (50, 8))
    model, dense = compressed(task), task.model()
    error = dense[0].weight - model[0].factorization.to_dense()
    BiasCorrection(examples=20).recover(model, task)
    shift = error @ task.split("calibration").inputs[:20].mean(0)
    torch.testing.assert_close(model[0].bias, dense[0].bias + shift, rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_dense_model_stays_bit_for_bit(task):
    model = task.model()
    BiasCorrection().recover(model, task)
    for name, number in task.model().state_dict().items():
        assert torch.equal(number, model.state_dict()[name]), name
    assert not BiasCorrection().changes_dense and not BiasCorrection().tunes


def test_only_vectors_change_and_the_bytes_stay():
    model = compressed(CNN)
    with torch.no_grad():  # Numbers that need all bits, as corrected ones do.
        for number in [*model.parameters(), *model.buffers()]:
            if number.is_floating_point():
                number.div_(3)
    before = {name: number.clone() for name, number in model.state_dict().items()}
    size, modes = nbytes(model), [module.training for module in model.train().modules()]
    BiasCorrection(gains=False).recover(model, CNN)
    changed = {
        name for name, now in model.state_dict().items() if not torch.equal(now, before[name])
    }
    assert changed == {"1.bias", "3.bias", "4.bias", "6.bias"}
    assert nbytes(model) == size
    assert [module.training for module in model.modules()] == modes


def test_a_channel_that_never_changes_keeps_its_gain():
    layers = (lambda: nn.Linear(4, 3, bias=False), nn.ReLU, lambda: nn.BatchNorm1d(3))
    task = Made(layers, (20, 4))
    model = task.model()
    with torch.no_grad():
        model[0].weight[1] = 0.0
    BiasCorrection().recover(model, task)
    assert model[2].weight[1] == task.model()[2].weight[1]
    found, wanted = (outputs(m, task, 2).mean(0) for m in (model, task.model()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_a_layer_that_runs_twice_is_left_and_named():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.two(self.one(self.one(x)))

    task = Made((Twice,), (10, 8))
    model = compressed(task)
    before = model[0].one.bias.clone()
    record = BiasCorrection().recover(model, task)
    assert record["run_more_or_less_than_once"] == ["0.one"] and record["corrected_layers"] == 1
    assert torch.equal(model[0].one.bias, before)


def test_bad_input():
    with pytest.raises(ValueError, match="examples=0 must be at least 1"):
        BiasCorrection(examples=0)
    with pytest.raises(ValueError, match="examples=51 are more than the 50 of the calibration"):
        BiasCorrection(examples=51).recover(compressed(MLP), MLP)
    with pytest.raises(ValueError, match="the calibration split of task .* is empty"):
        BiasCorrection().check_data(replace(MLP, shape=(0, 8)))
    with pytest.raises(ValueError, match="no linear layer, .* has a bias"):
        BiasCorrection().check(nn.Sequential(nn.Linear(3, 3, bias=False)))
