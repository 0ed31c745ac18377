import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import LoRA, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.measure import trainable_bytes, trainable_params
from lowrank.recovery import FineTune
from lowrank.recovery.fine_tune import distilled
from lowrank.tasks import (
    Batch,
    Digits,
    ImageClassification,
    Split,
    Task,
    Trained,
    Training,
)

RECIPE = FineTune(epochs=1, learning_rate=1e-3, batch_size=64)
TASK = ImageClassification(
    name="digits",
    architecture="mlp",
    source=Digits(),
    builder="lowrank.tasks.networks.multilayer:mlp",
    arguments={"widths": [64, 32, 10]},
    weights=Trained(Training(epochs=5, learning_rate=3e-3, batch_size=64)),
    validation_size=180,
    calibration_size=256,
)


@dataclass(frozen=True)
class Counted(Split):
    """The numbers 0, 1, … as inputs and targets."""

    count: int

    def __len__(self):
        return self.count

    def batches(self, batch_size, shuffle_seed=None):
        return super().batches(batch_size)  # In order.

    def batch(self, rows):
        return Batch((rows.double(),), rows.double())


@dataclass(frozen=True)
class Sliding(Task):
    """A loss without a bottom, whose slope is the mean of the batch's inputs, or 1."""

    count: int = 10
    slope: bool = False
    seed: int = 0
    device: str = "cpu"
    name = "sliding"
    architecture = "none"

    def network(self):
        return Slide()

    def model(self):
        return self.network()

    def split(self, name):
        assert name == "train"
        return Counted(self.count)

    def forward(self, model, batch):
        return model(batch.only if self.slope else torch.ones_like(batch.only))

    def loss(self, outputs, targets):
        return outputs.mean()

    def metrics(self):
        raise NotImplementedError


class Slide(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        return x * self.position


def sgd(**options):
    settings = {"epochs": 2, "learning_rate": 0.1, "batch_size": 4, "optimizer": "sgd"}
    return FineTune(**(settings | {"momentum": 0.0, "schedule": "constant"} | options))


def mean_loss(model, split="train"):
    losses = []
    with torch.no_grad():
        for batch in TASK.split(split).batches(1):
            inputs, targets = batch.only, batch.targets
            losses.append(TASK.loss(model(inputs), targets))
    return float(torch.stack(losses).mean())


def same(first, second):
    state, other = first.state_dict(), second.state_dict()
    return all(torch.equal(state[name], other[name]) for name in state)


def test_the_last_short_batch_counts_by_its_examples():
    # 1257 = 19 · 64 + 41; a step of 1e-12 changes nothing.
    model = TASK.model()
    expected = mean_loss(model)
    record = replace(RECIPE, learning_rate=1e-12).recover(model, TASK)
    assert record["losses"] == [pytest.approx(expected, rel=1e-5)]
    assert record["steps"] == 20
    # The mean over batches would be another number.
    with torch.no_grad():
        batches = TASK.split("train").batches(64)
        means = [float(TASK.loss(model(batch.only), batch.targets)) for batch in batches]
    assert sum(means) / 20 != pytest.approx(expected, rel=1e-4)


def test_a_constant_rate_goes_as_far_at_each_step():
    model = Slide()
    record = sgd(epochs=3).recover(model, Sliding(count=10))
    assert record["steps"] == 9 and record["trained_params"] == 1
    assert model.position.item() == pytest.approx(-0.9)


def test_a_cosine_rate_goes_half_as_far_in_all():
    # Σ (1 + cos(π t/T)) / 2 over t = 0 … T−1 is (T + 1) / 2.
    model = Slide()
    sgd(epochs=3, schedule="cosine").recover(model, Sliding(count=10))
    assert model.position.item() == pytest.approx(-0.1 * (9 + 1) / 2)


def test_one_step_of_sgd_is_the_gradient_times_the_rate():
    model = Slide()
    sgd(epochs=1, batch_size=100).recover(model, Sliding(count=10, slope=True))
    assert model.position.item() == pytest.approx(-0.1 * 4.5)


def test_momentum_is_nesterovs():
    # v ← µv + g, step lr·(g + µv): with g = 1, µ = 0.5 the steps are 1.5 and 1.75 times lr.
    model = Slide()
    sgd(epochs=2, batch_size=10, momentum=0.5).recover(model, Sliding(count=10))
    assert model.position.item() == pytest.approx(-0.1 * (1.5 + 1.75))


def test_the_first_step_of_adamw_is_the_rate_after_the_decay():
    model = Slide()
    with torch.no_grad():
        model.position.fill_(2.0)
    recipe = FineTune(1, 0.1, batch_size=10, schedule="constant", weight_decay=0.5)
    recipe.recover(model, Sliding(count=10))
    assert model.position.item() == pytest.approx(2 * (1 - 0.1 * 0.5) - 0.1)


def test_training_lowers_the_loss_of_a_compressed_model():
    compressed = compress(TASK.model(), TruncatedSVD(rank=4)).model
    before, validation = mean_loss(compressed), mean_loss(compressed, "validation")
    record = replace(RECIPE, epochs=5).recover(compressed, TASK)
    assert mean_loss(compressed) < 0.7 * before
    assert mean_loss(compressed, "validation") < validation
    assert record["losses"] == sorted(record["losses"], reverse=True)


def test_what_is_frozen_stays_bit_for_bit():
    model = TASK.model()
    frozen = model.get_submodule("fc1").requires_grad_(False)
    before = copy.deepcopy(model)
    record = replace(RECIPE, weight_decay=0.1).recover(model, TASK)
    assert same(frozen, before.get_submodule("fc1"))
    assert not same(model.get_submodule("fc2"), before.get_submodule("fc2"))
    assert record["trained_params"] == 32 * 10 + 10
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_pruned_weight_never_revives(optimizer):
    model = compress(TASK.model(), MagnitudePruning(0.5)).model
    sparse = model.get_submodule("fc1").factorization
    before = sparse.to_dense().detach().clone()
    pruned = before == 0
    assert int(pruned.sum()) == 32 * 64 // 2
    replace(RECIPE, optimizer=optimizer, weight_decay=0.1, epochs=2).recover(model, TASK)
    after = sparse.to_dense().detach()
    assert not after[pruned].any()
    assert not torch.equal(after[~pruned], before[~pruned])


def test_the_tasks_seed_decides_all():
    def trained(seed, state):
        torch.manual_seed(state)
        model = nn.Sequential(nn.Dropout(0.3), TASK.model())
        RECIPE.recover(model, replace(TASK, seed=seed))
        return model

    assert same(trained(0, 1), trained(0, 2))
    assert not same(trained(0, 1), trained(1, 1))


def test_the_callers_state_stays():
    model = nn.Sequential(nn.Dropout(0.3), TASK.model())
    before = torch.random.get_rng_state()
    for training in (True, False):
        model.train(training)
        RECIPE.recover(model, TASK)
        assert model.training is training
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.no_grad():
        RECIPE.recover(model, TASK)
        assert not torch.is_grad_enabled()


def test_progress_is_told_after_each_epoch():
    told = []
    record = replace(RECIPE, epochs=3).recover(
        TASK.model(), TASK, lambda done, total, loss: told.append((done, total, loss))
    )
    assert [(done, total) for done, total, _ in told] == [(1, 3), (2, 3), (3, 3)]
    assert [loss for *_, loss in told] == record["losses"]


def test_the_dense_model_has_nothing_to_learn_from_itself():
    model = TASK.model()
    recipe = replace(RECIPE, optimizer="sgd", distill=1.0)
    record = recipe.recover(model, TASK)
    assert record["losses"] == [pytest.approx(0, abs=1e-6)]
    torch.testing.assert_close(
        list(model.parameters()), list(TASK.model().parameters()), atol=1e-5, rtol=0
    )


def test_distillation_brings_the_model_closer_to_the_dense_one():
    dense, compressed = TASK.model(), compress(TASK.model(), TruncatedSVD(rank=4)).model
    (inputs,) = TASK.example(360)

    def divergence():
        with torch.no_grad():
            p, q = dense(inputs).softmax(1).double(), compressed(inputs).softmax(1).double()
        return float((p * (p / q).log()).sum(1).mean())

    before = divergence()
    replace(RECIPE, epochs=5, distill=1.0).recover(compressed, TASK)
    assert divergence() < 0.5 * before


def test_distillation_mixes_the_two_losses():
    model = compress(TASK.model(), TruncatedSVD(rank=4)).model

    def loss(distill):
        recipe = replace(RECIPE, learning_rate=1e-12, distill=distill)
        return recipe.recover(copy.deepcopy(model), TASK)["losses"][0]

    assert loss(0.25) == pytest.approx(0.75 * loss(0.0) + 0.25 * loss(1.0), rel=1e-5)
    inputs = next(TASK.split("train").batches(2000)).only
    with torch.no_grad():
        outputs, dense = model(inputs), TASK.model()(inputs)
    expected = F.kl_div(outputs.log_softmax(1), dense.softmax(1), reduction="batchmean")
    assert loss(1.0) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_the_distance_at_a_temperature_counts_its_square(temperature):
    """T² KL(softmax(dense/T) ‖ softmax(model/T)), as in Hinton, Vinyals & Dean 2015, section 2."""
    dense, model = TASK.model(), compress(TASK.model(), TruncatedSVD(rank=4)).model
    recipe = replace(RECIPE, learning_rate=1e-12, distill=0.75, temperature=temperature)
    (loss,) = recipe.recover_toward(copy.deepcopy(model), dense, TASK)["losses"]
    batch = next(TASK.split("train").batches(2000))
    with torch.no_grad():
        outputs, wanted = model(batch.only), dense(batch.only)
    soft = F.kl_div(
        (outputs / temperature).log_softmax(1),
        (wanted / temperature).softmax(1),
        reduction="batchmean",
    )
    hard = F.cross_entropy(outputs, batch.targets)
    assert loss == pytest.approx(float(0.25 * hard + 0.75 * temperature**2 * soft), rel=1e-4)


def test_the_gradient_of_the_distance_hardly_depends_on_a_high_temperature():
    """It is that of half the squared distance of the centred scores over their number."""
    scores = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    wanted, batch = torch.randn(6, 10, dtype=torch.float64), Batch((torch.zeros(6, 1),), None)
    task = replace(TASK, weights=None)

    def gradient(temperature):
        same = nn.Module(), nn.Module()
        outputs = dict(zip(same, (scores, wanted), strict=True))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(task), "forward", lambda self, model, batch: outputs[model])
            patch.setattr(type(task), "loss", lambda self, outputs, targets: outputs.sum() * 0)
            loss = distilled(task, same[1], 1.0, temperature)(same[0], batch)
        return torch.autograd.grad(loss, scores)[0]

    difference = (scores - wanted).detach()
    limit = (difference - difference.mean(1, keepdim=True)) / 10 / 6
    torch.testing.assert_close(gradient(1e4), limit, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(gradient(1e3), gradient(1e4), rtol=1e-2, atol=1e-5)


def test_the_dense_model_runs_under_autocast_too_and_without_gradients():
    dense, model, seen = TASK.model(), TASK.model(), []
    dense.fc1.register_forward_hook(lambda *call: seen.append((call[2].dtype, call[2].grad_fn)))
    recipe = replace(RECIPE, distill=0.5, autocast="bfloat16", accumulate=2, temperature=2.0)
    recipe.recover_toward(model, dense, TASK)
    assert set(seen) == {(torch.bfloat16, None)} and len(seen) == 2 * 20
    assert all(p.grad is None for p in dense.parameters())


def test_a_loss_that_is_nan_ends_the_run():
    model = TASK.model()
    with torch.no_grad():
        model.get_submodule("fc1").weight[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="loss became nan in epoch 1; lower the"):
        RECIPE.recover(model, TASK)
    assert not model.training


def test_only_the_adapters_train_in_the_scope_of_factorizations():
    model = compress(TASK.model(), LoRA(rank=2, alpha=4), where="fc1").model
    before = copy.deepcopy(model.state_dict())
    found = replace(RECIPE, scope="factorizations").recover(model, TASK)
    assert found["trained_params"] == trainable_params(model) == 2 * (64 + 32)
    assert trainable_bytes(model) == 4 * 2 * (64 + 32)
    changed = {name for name, now in model.state_dict().items() if not now.equal(before[name])}
    left, right = (f"fc1.factorization.terms.1.term.factors.{n}.weight" for n in (0, 1))
    assert changed == {left, right}


def test_nothing_else_trains_where_factorizations_have_nothing_to_train():
    model = compress(TASK.model(), Quantization(bits=4), where="fc1").model
    with pytest.raises(ValueError, match="nothing in this model can be trained"):
        replace(RECIPE, scope="factorizations").recover(model, TASK)


def test_a_dense_model_is_trained_whole_in_any_scope():
    narrow, whole = TASK.model(), TASK.model()
    replace(RECIPE, scope="factorizations").recover(narrow, TASK)
    RECIPE.recover(whole, TASK)
    for one, other in zip(narrow.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_nothing_to_train():
    with pytest.raises(ValueError, match="nothing in this model can be trained"):
        RECIPE.recover(TASK.model().requires_grad_(False), TASK)


def test_adamw_does_not_train_in_float16():
    """Its steps would be NaN: in float16 squares of small gradients, and 1e-8, are 0."""
    with pytest.raises(ValueError, match="AdamW divides 0 by 0 in float16: take a model of bfl"):
        RECIPE.recover(TASK.model().half(), TASK)


def test_no_example_to_train_on():
    with pytest.raises(ValueError, match="task 'sliding' has no example to train on"):
        RECIPE.recover(Slide(), Sliding(count=0))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"epochs": 1.5}, "epochs=1.5 must be .* an integer"),
        ({"epochs": True}, "epochs=True must be .* an integer"),
        ({"learning_rate": "fast"}, "learning_rate='fast' must be a number"),
        ({"learning_rate": 0}, "learning_rate=0 must be above 0"),
        ({"learning_rate": math.nan}, "learning_rate=nan must be above 0"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"optimizer": "adam"}, "optimizer='adam' must be one of .'adamw', 'sgd'"),
        ({"momentum": 1.0}, r"momentum=1.0 must lie in \[0, 1\)"),
        ({"momentum": 0.5}, "momentum=0.5 has no effect with optimizer='adamw'"),
        ({"schedule": "linear"}, "schedule='linear' must be one of .'constant', 'cosine'"),
        ({"weight_decay": -1}, "weight_decay=-1 must be at least 0"),
        ({"weight_decay": math.inf}, "weight_decay=inf must be at least 0 and finite"),
        ({"distill": 1.5}, r"distill=1.5 must lie in \[0, 1\]"),
        ({"distill": 0.5, "temperature": 0}, "temperature=0 must be above 0"),
        ({"temperature": 2.0}, "temperature=2.0 has no effect without distill: leave it out"),
        ({"scope": "head"}, "scope='head' must be one of .'model', 'factorizations'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FineTune(**({"epochs": 1, "learning_rate": 0.1} | options))
