"""Compression in steps: its schedule, its masks, and what it shares with plain training."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from least_squares import LeastSquares

from lowrank.allocation import Budget, GlobalMagnitude, MixedAllocation, NormError
from lowrank.compression.compress import compress
from lowrank.decomposers import (
    AlternatingSum,
    Chain,
    CodebookQuantization,
    DoRA,
    LoRA,
    LowRankPlusSparse,
    MagnitudePruning,
    Quantization,
    RandomPruning,
    TruncatedSVD,
)
from lowrank.model.sites import find_sites
from lowrank.recovery import FineTune, Gradual, InOrder

PLAIN = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant"}


def gradual(**options):
    settings = {"epochs": 200, "learning_rate": 0.2, "batch_size": 40, **PLAIN}
    return Gradual(**(settings | {"renewals": 10, "every": 10} | options))


def fine_tune(epochs, **options):
    settings = {"learning_rate": 0.2, "batch_size": 40, **PLAIN}
    return FineTune(epochs=epochs, **(settings | options))


def matrix(result):
    return result.model[0].factorization.to_dense().detach()


@given(st.integers(1, 50), st.floats(0.3, 5), st.floats(0.1, 0.99))
def test_the_schedule_is_that_of_the_source(renewals, power, final):
    """Zhu & Gupta, equation 1: s_t = s_f + (s_i − s_f) (1 − (t − t₀) / (n Δt))³, s_i = 0."""
    shares = gradual(renewals=renewals, every=1, power=power).shares()
    assert shares[-1] == 1 and len(shares) == renewals
    for k, share in enumerate(shares, start=1):
        expected = final + (0 - final) * (1 - k / renewals) ** power
        assert share * final == pytest.approx(expected, abs=1e-12)
    assert all(a < b or a == b == 1 for a, b in zip(shares, shares[1:], strict=False))


def test_the_epochs_are_divided_among_the_renewals():
    parts = gradual(epochs=12, renewals=4, every=2).parts()
    assert parts == [range(0, 2), range(2, 4), range(4, 6), range(6, 12)]


@pytest.mark.parametrize(
    ("method", "left"),
    [
        (MagnitudePruning(0.7), 9),
        (GlobalMagnitude(0.7), 9),
        (MagnitudePruning(pattern="1:3"), 10),
        (RandomPruning(0.7), 9),
    ],
    ids=repr,
)
def test_masks_are_nested(method, left):
    """What is pruned once stays so, and each renewal prunes more."""
    task = LeastSquares(spread=2.0, trained=True)
    result = compress(task.model(), method)
    masks, again = [], result.again

    def watched(model, share):
        made = again(model, share)
        masks.append(made.model[0].factorization.mask.clone())
        made.again = watched
        return made

    result.again = watched
    found = gradual(epochs=30, renewals=6, every=4).recover_compressed(result, task)
    counts = [int(mask.sum()) for mask in masks]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] == left
    pairs = zip(masks, masks[1:], strict=False)
    assert not any(bool((late & ~early).any()) for early, late in pairs)
    assert found["bytes"] == sorted(found["bytes"], reverse=True)
    assert int((matrix(result) != 0).sum()) == left


def test_one_renewal_is_compression_and_then_fine_tuning():
    task = LeastSquares(spread=2.0)
    ours = compress(task.model(), MagnitudePruning(0.5))
    found = gradual(epochs=7, renewals=1).recover_compressed(ours, task)
    theirs = compress(task.model(), MagnitudePruning(0.5))
    assert found["losses"] == fine_tune(7).recover(theirs.model, task)["losses"]
    assert torch.equal(matrix(ours), matrix(theirs))


def test_pruning_and_retraining_by_turns():
    """With `restarts`: as done by hand, one fine-tuning after each pruning (Han et al.)."""
    task, options = LeastSquares(spread=2.0), {"schedule": "cosine", "momentum": 0.5}
    ours = compress(task.model(), MagnitudePruning(0.6))
    steps = gradual(epochs=15, renewals=3, every=5, power=1.0, restarts=True, **options)
    steps.recover_compressed(ours, task)
    weight = task.model()[0].weight.detach()
    for sparsity in (0.2, 0.4, 0.6):
        model = task.model()
        with torch.no_grad():
            model[0].weight.copy_(weight)
        by_hand = compress(model, MagnitudePruning(sparsity))
        fine_tune(5, **options).recover(by_hand.model, task)
        weight = matrix(by_hand)
    torch.testing.assert_close(matrix(ours), weight)


@pytest.mark.parametrize("restarts", [True, False])
def test_the_dense_model_is_trained_as_long(restarts):
    task, model, other = LeastSquares(), LeastSquares().model(), LeastSquares().model()
    found = gradual(restarts=restarts).recover(model, task)
    fine_tune(200).recover(other, task)
    assert found["steps"] == 200 == len(found["losses"])
    # Without momentum and with a constant rate the steps are the same.
    torch.testing.assert_close(model[0].weight, other[0].weight, rtol=1e-9, atol=1e-9)


def test_the_learning_rate_goes_on_over_the_renewals_or_begins_anew():
    """By the distance that a slope of one goes: the sum of the rates."""
    task, options = LeastSquares(), {"epochs": 20, "renewals": 4, "every": 5, "schedule": "cosine"}
    losses = {}
    for restarts in (True, False):
        result = compress(task.model(), TruncatedSVD(rank=5))  # Kept dense at every share.
        recipe = gradual(restarts=restarts, learning_rate=0.01, **options)
        with torch.no_grad():
            losses[restarts] = recipe.recover(task.model(), task)["losses"]
        assert recipe.recover_compressed(result, task)["losses"] == losses[restarts]
    plain = fine_tune(20, schedule="cosine", learning_rate=0.01).recover(task.model(), task)
    assert losses[False] == plain["losses"] != losses[True]


METHODS = [
    MagnitudePruning(0.6),
    TruncatedSVD(rank=2),
    CodebookQuantization(1),
    Chain([MagnitudePruning(0.5), CodebookQuantization(1)]),
    AlternatingSum([CodebookQuantization(1), MagnitudePruning(0.9)], 3),
    LowRankPlusSparse(1, 0.8, iterations=3),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_every_method_reaches_its_level(method):
    task = LeastSquares(spread=1.5, trained=True)
    direct = compress(task.model(), method)
    result = compress(task.model(), method)
    recipe = gradual(epochs=30, renewals=5, every=4, learning_rate=0.01)
    losses = recipe.recover_compressed(result, task)["losses"]
    assert result.layers[0].bytes == direct.layers[0].bytes
    assert result.model[0].factorization.describe() == direct.model[0].factorization.describe()
    # Of the 14 epochs at the level itself.
    assert task.loss_at(matrix(result)) < losses[-1] < losses[-14]


@pytest.mark.parametrize("budget", [Budget(limit=70), Budget(bits_per_weight=20)], ids=repr)
def test_a_budget_falls_in_steps(budget):
    task = LeastSquares(trained=True)
    choice = MixedAllocation(
        [MagnitudePruning(s / 10) for s in range(2, 10)], budget, NormError(), 0
    )
    result = compress(task.model(), choice)
    sizes = gradual(epochs=8, renewals=4, every=2).recover_compressed(result, task)["bytes"]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert sizes[-1] == result.layers[0].bytes <= budget.allowance(find_sites(task.model()), 240, 0)


def test_a_method_without_a_level_in_between_is_noted():
    task, notes = LeastSquares(), []
    # The rank of the whole weight is where the way begins.
    for method, renewals in [
        (TruncatedSVD(rank=5), 3),
        (TruncatedSVD(rank=5), 1),
        (MagnitudePruning(0.5), 3),
    ]:
        result = compress(task.model(), method)
        found = gradual(epochs=3, renewals=renewals, every=1).recover_compressed(result, task)
        notes.append(found.get("note", ""))
    assert notes[1:] == ["", ""] and notes[0].startswith("at these shares the method has no level")


def test_codes_alone_are_not_trained():
    task = LeastSquares()
    result = compress(task.model(), Quantization(2))
    with pytest.raises(ValueError, match="nothing in this model can be trained"):
        gradual().recover_compressed(result, task)


def test_in_steps_more_is_kept_than_at_once():
    """Pruned at once, a weight that others depend on may go."""
    lost = {"gradual": 0.0, "at once": 0.0}
    for seed in range(8):
        task = LeastSquares(spread=3.0, seed=seed, trained=True)
        for name, renewals in (("gradual", 6), ("at once", 1)):
            result = compress(task.model(), MagnitudePruning(0.7))
            recipe = gradual(epochs=40, renewals=renewals, every=5, power=1.0)
            recipe.recover_compressed(result, task)
            lost[name] += task.loss_at(matrix(result)) - task.loss_at(task.best())
    assert lost["gradual"] < 0.95 * lost["at once"]


@pytest.mark.parametrize(
    "options, text",
    [
        ({"renewals": 0}, "renewals=0 must be at least 1"),
        ({"every": 0}, "every=0 must be at least 1"),
        ({"power": 0}, "power=0 must be above 0"),
        ({"restarts": 1}, "restarts=1 must be True or False"),
        ({"epochs": 9, "renewals": 10, "every": 1}, "come after epochs 0 to 9, and epochs=9 must"),
    ],
)
def test_options_outside_their_ranges_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        gradual(**options)


@pytest.mark.parametrize("adapter", [LoRA(1, 2, base=MagnitudePruning(0.5)), DoRA(LoRA(1, 2))])
def test_adapters_whose_frozen_base_it_would_train_are_refused_before(adapter):
    task = LeastSquares()
    result = compress(task.model(), adapter)
    before = {name: tensor.clone() for name, tensor in result.model.state_dict().items()}
    for recovery in (gradual(), InOrder([gradual()])):
        with pytest.raises(ValueError, match="would train the frozen base of the adapters"):
            recovery.recover_compressed(result, task)
    now = result.model.state_dict()
    assert all(torch.equal(tensor, now[name]) for name, tensor in before.items())
