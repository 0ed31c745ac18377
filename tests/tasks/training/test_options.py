import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
from digits_task import TASK
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import (
    DoRA,
    LoRA,
    LoRAXS,
    MagnitudePruning,
    Quantization,
    SharedLoRA,
    TruncatedSVD,
    VeRA,
)
from lowrank.factorizations import Factorization
from lowrank.model.batch import Batch
from lowrank.model.nested import tensors
from lowrank.recovery import FineTune
from lowrank.tasks import Training, TrainingOptions, loss_metric
from lowrank.tasks.training.loop import Loop
from lowrank.tasks.training.optimizers import left_parameters
from lowrank.tasks.training.training import task_loss

RECIPE = Training(epochs=1, learning_rate=1e-3, batch_size=64)


def gradients(model, batch, accumulate, task=TASK):
    """Of one step on a batch; plain descent at rate 1 moves by it."""
    recipe = Training(1, 1.0, optimizer="sgd", momentum=0.0, schedule="constant")
    model = copy.deepcopy(model).train()
    before = [p.detach().clone() for p in model.parameters()]
    options = TrainingOptions(accumulate=accumulate)
    loop = Loop(recipe, options, model, task, task_loss(task), range(1))
    value = loop._step(batch)
    return [old - p.detach() for old, p in zip(before, model.parameters(), strict=True)], value


@dataclass(frozen=True)
class Tokens:
    """Predictions of several positions, some of which are masked (target −100)."""

    task = TASK
    name, device, seed = "tokens", "cpu", 0
    predicts = staticmethod(lambda batch: (batch.targets >= 0).sum(1))

    def split(self, name):
        return TASK.split(name)

    def judged_by(self):
        return (loss_metric(minor=False),)

    def forward(self, model, batch):
        return model(batch.only)

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def predictions(self, batch):
        return self.predicts(batch)


@settings(max_examples=25)
@given(st.integers(1, 23), st.integers(1, 30), st.integers(0, 99))
def test_parts_of_a_batch_have_the_gradient_of_the_whole(count, accumulate, seed):
    """Of equal examples, also where the last part is shorter or there are more parts than rows."""
    batch = TASK.split("train").batch(torch.arange(seed, seed + count))
    model = TASK.model().double()
    batch = Batch((batch.only.double(),), batch.targets)
    whole, loss = gradients(model, batch, 1)
    parts, sum_of_parts = gradients(model, batch, accumulate)
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(sum_of_parts, loss, rtol=1e-12, atol=0)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=9), st.integers(2, 9), st.integers(0, 9))
def test_parts_weigh_by_their_predictions(lengths, accumulate, seed):
    """The mean over tokens is that of the batch, and a part without any does no harm."""
    if not any(lengths):
        lengths = [1, *lengths]
    drawn = torch.Generator().manual_seed(seed)
    inputs = torch.randn(len(lengths), 5, 4, dtype=torch.float64, generator=drawn)
    targets = torch.randint(3, (len(lengths), 5), generator=drawn)
    targets[torch.arange(5) >= torch.tensor(lengths)[:, None]] = -100
    model, batch = nn.Linear(4, 3).double(), Batch((inputs,), targets)
    whole, loss = gradients(model, batch, 1, Tokens())
    parts, sum_of_parts = gradients(model, batch, accumulate, Tokens())
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(sum_of_parts, loss, rtol=1e-12, atol=0)


def test_a_batch_in_parts_never_runs_whole():
    sizes = []
    model = TASK.model()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    found = RECIPE.train(model, TASK, options=TrainingOptions(accumulate=3))
    train = len(TASK.split("train"))
    assert max(sizes) == math.ceil(64 / 3) and sum(sizes) == train
    assert found["steps"] == math.ceil(train / 64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_products_run_in_the_dtype_of_autocast_and_parameters_keep_theirs(dtype):
    seen, model, plain = set(), TASK.model(), TASK.model()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *call: seen.add(call[2].dtype))
    options = TrainingOptions(autocast=dtype)
    found = replace(RECIPE, epochs=3).train(model, TASK, options=options)
    exact = replace(RECIPE, epochs=3).train(plain, TASK)
    assert seen == {getattr(torch, dtype)}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert found["losses"] == pytest.approx(exact["losses"], rel=0.01)
    assert found["losses"] != exact["losses"]
    assert found["optimizer_bytes"] == exact["optimizer_bytes"]


def test_losses_are_computed_in_float32_under_autocast():
    task, seen = TASK, []

    def loss(model, batch):
        value = task_loss(task)(model, batch)
        seen.append(value.dtype)
        return value

    RECIPE.train(TASK.model(), task, loss, options=TrainingOptions(autocast="bfloat16"))
    assert set(seen) == {torch.float32}


def test_small_gradients_do_not_underflow_in_float16():
    """Scaled losses: gradients of 1e-7, below half of float16's least number, arrive."""
    model = nn.Linear(64, 10)
    before = copy.deepcopy(model)

    def loss(model, batch):
        return 1e-8 * model(batch.only.flatten(1)).float().square().mean()

    recipe = replace(RECIPE, optimizer="sgd", learning_rate=1e4, schedule="constant", batch_size=9)
    recipe.train(model, TASK, loss, options=TrainingOptions(autocast="float16"))
    other = copy.deepcopy(before)
    recipe.train(other, TASK, loss)
    moved, wanted = ((m.weight - before.weight).detach() for m in (model, other))
    assert float(wanted.norm()) > 0
    assert float((moved - wanted).norm()) < 0.02 * float(wanted.norm())


def test_an_overflow_in_float16_leaves_the_step_out():
    start = TASK.model()
    scaled, plain = copy.deepcopy(start), copy.deepcopy(start)

    def loss(model, batch):
        # Finite, as its gradients are; 65,536 times these are not.
        return 1e35 * task_loss(TASK)(model, batch)

    one_step = Training(1, 1e-36, 2000, optimizer="sgd")
    one_step.train(plain, TASK, loss)
    one_step.train(scaled, TASK, loss, options=TrainingOptions(autocast="float16"))
    assert not torch.equal(plain.fc1.weight, start.fc1.weight)
    assert torch.equal(scaled.fc1.weight, start.fc1.weight)


def test_left_factors_learn_so_many_times_faster():
    """With plain descent a step is the rate times the gradient: 16 times as far."""
    recipe = Training(1, 1.0, 2000, optimizer="sgd", momentum=0.0, schedule="constant")
    model = compress(TASK.model(), LoRA(rank=2, alpha=4, init="pissa")).model
    plain, faster = copy.deepcopy(model), copy.deepcopy(model)
    recipe.train(plain, TASK)
    recipe.train(faster, TASK, options=TrainingOptions(left_rate=16.0))
    lefts = [{id(p) for p in left_parameters(m)} for m in (model, plain, faster)]
    moved = 0
    rows = zip(*(m.parameters() for m in (model, plain, faster)), strict=True)
    for start, one, many in rows:
        ratio = 16 if id(start) in lefts[0] else 1
        step, faster_step = (one - start).detach(), (many - start).detach()
        torch.testing.assert_close(faster_step, ratio * step, rtol=1e-3, atol=1e-5)
        moved += ratio == 16 and bool(step.abs().max() > 1e-3)
    assert moved == len(lefts[0]) == 2


@pytest.mark.parametrize(
    "method", [LoRA(2, 4.0), LoRA(2, 4.0, base=Quantization(4)), DoRA(LoRA(2, 4.0))], ids=repr
)
def test_the_left_factor_of_an_adapter_is_that_of_the_outputs(method):
    model = compress(TASK.model(), method).model
    forms = [m.factorization for m in model.modules() if hasattr(m, "factorization")]
    shapes = sorted((form.shape[0], 2) for form in forms)
    trained = [p for p in left_parameters(model) if p.requires_grad]
    assert sorted(tuple(p.shape) for p in trained) == shapes


@pytest.mark.parametrize(
    "method", [MagnitudePruning(0.5), LoRAXS(2, 4.0), SharedLoRA(2, 4.0)], ids=repr
)
def test_a_rate_of_left_factors_without_any_is_refused_before_training(method):
    model = compress(TASK.model(), method).model
    options = TrainingOptions(left_rate=16)
    with pytest.raises(ValueError, match="left_rate=16 has no effect: no left factor .* LoRA"):
        RECIPE.train(model, TASK, options=options)


def test_of_vera_the_scales_of_the_rows_are_the_left_ones():
    model = compress(TASK.model(), VeRA(2)).model
    trained = [p for p in left_parameters(model) if p.requires_grad]
    assert sorted(tuple(p.shape) for p in trained) == [(10,), (16,)]


def test_a_left_factor_that_is_frozen_does_not_count():
    options = TrainingOptions(left_rate=16)
    low_rank = compress(TASK.model(), TruncatedSVD(2)).model
    for form in (m for m in low_rank.modules() if isinstance(m, Factorization)):
        form.requires_grad_(False)
    with pytest.raises(ValueError, match="left_rate=16 has no effect"):
        RECIPE.train(low_rank, TASK, options=options)


def test_the_dense_baseline_is_trained_by_one_rate():
    dense, same = TASK.model(), TASK.model()
    FineTune(1, 1e-3, left_rate=16).recover(dense, TASK)
    FineTune(1, 1e-3).recover(same, TASK)
    for one, other in zip(tensors(dense.state_dict()), tensors(same.state_dict()), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "optimizer, each", [("adamw", (2 * 4, 4)), ("sgd", (4, 0))], ids=["adamw", "sgd"]
)
def test_the_bytes_of_the_optimizer_are_what_it_keeps(optimizer, each):
    """AdamW keeps two numbers for each that is trained and the count of steps, SGD a momentum."""
    model = compress(TASK.model(), LoRA(rank=2, alpha=4)).model
    found = FineTune(1, 1e-3, optimizer=optimizer, scope="factorizations").recover(model, TASK)
    count = len([p for p in model.parameters() if p.requires_grad])
    assert found["trained_params"] == 2 * (64 + 16 + 16 + 10)
    assert found["optimizer_bytes"] == each[0] * found["trained_params"] + each[1] * count
    assert found["step_s"] > 0


def test_a_loss_that_is_no_mean_cannot_be_taken_in_parts(monkeypatch):
    loss = loss_metric(average=None)
    monkeypatch.setattr(type(TASK), "judged_by", lambda self: (loss,))
    with pytest.raises(ValueError, match="accumulate=2: the loss of task 'digits' is no mean over"):
        RECIPE.train(TASK.model(), TASK, options=TrainingOptions(accumulate=2))


def test_float16_parameters_are_not_scaled():
    recipe = replace(RECIPE, optimizer="sgd")
    with pytest.raises(ValueError, match="autocast='float16' scales gradients of float32, and"):
        recipe.train(TASK.model().half(), TASK, options=TrainingOptions(autocast="float16"))


def test_a_device_without_autocast():
    options = TrainingOptions(autocast="bfloat16")
    with pytest.raises(ValueError, match="autocast='bfloat16': torch has none on meta; leave it"):
        options.check_task(replace(TASK, device="meta"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"patience": 0}, "patience=0 must be at least 1"),
        ({"patience": 1.5}, "patience=1.5 must be .* an integer"),
        ({"accumulate": 0}, "accumulate=0 must be at least 1"),
        ({"accumulate": None}, "accumulate=None must be"),
        ({"autocast": "float32"}, "autocast='float32' must be one of .'bfloat16', 'float16'"),
        ({"autocast": True}, "autocast=True must be one of"),
        ({"left_rate": 0}, "left_rate=0 must be above 0"),
        ({"left_rate": math.inf}, "left_rate=inf must be above 0"),
    ],
)
def test_bad_options(options, message):
    for make in (TrainingOptions, lambda **given: FineTune(1, 0.1, **given)):
        with pytest.raises(ValueError, match=message):
            make(**options)


def peak(model, **options):
    recipe = FineTune(1, 1e-3, batch_size=256, scope="factorizations", **options)
    return recipe.recover(copy.deepcopy(model), TASK)["peak_memory_bytes"]


def test_the_record_says_the_memory_of_a_step():
    """Adapters save gradients and the state of the optimizer, parts of a batch activations."""
    wide = replace(TASK, arguments={"widths": [64, 512, 512, 10]}).model()
    adapted = compress(wide, LoRA(2, 4.0)).model
    numbers, trained = sum(p.numel() for p in wide.parameters()), 2 * (64 + 4 * 512 + 10)
    # Weights, gradients and two moments at least.
    whole, of_adapter = peak(wide), peak(adapted)
    assert whole > 4 * 4 * numbers
    assert 4 * (numbers + 4 * trained) < of_adapter < whole - 4 * 2 * (numbers - trained)
    # One moment, and the counts of steps of 6 factors.
    assert of_adapter - peak(adapted, optimizer="sgd") == 4 * trained + 4 * 6
    # The inputs of the last two layers are kept for the gradients.
    assert of_adapter - peak(adapted, accumulate=8) > 4 * 2 * 512 * 256 * 7 / 8
