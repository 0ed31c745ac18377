"""Learning-compression: on quadratic losses it finds the optimum that is known in closed form."""

import copy
import itertools

import pytest
import torch
from least_squares import INNER, LeastSquares
from torch import nn

from lowrank.allocation import GlobalMagnitude
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
    TruncatedSVD,
)
from lowrank.recovery import FineTune, InOrder, LearningCompression
from lowrank.recovery.learning_compression import penalised

METHODS = [
    MagnitudePruning(0.6),
    TruncatedSVD(rank=2),
    CodebookQuantization(1),
    Quantization(2, scale="mse"),
    Chain([MagnitudePruning(0.5), CodebookQuantization(1)]),
    AlternatingSum([CodebookQuantization(1), MagnitudePruning(0.9)], 8),
]


def algorithm(**options):
    settings = {"epochs": 300, "steps": 30, "learning_rate": 0.2, "batch_size": 40}
    settings |= {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant"}
    return LearningCompression(**(settings | {"penalty": 0.1, "growth": 1.2} | options))


def learnt(task, method, **options):
    """The compressed model, and what is on record."""
    result = compress(task.model(), method)
    found = algorithm(**options).recover_compressed(result, task)
    return result, found


def matrix(result):
    return result.model[0].factorization.to_dense().detach()


@pytest.mark.parametrize("multipliers", [True, False])
@pytest.mark.parametrize("method", [TruncatedSVD(rank=2), MagnitudePruning(0.6)], ids=repr)
def test_where_inputs_are_white_the_optimum_is_the_least_squares_compressed(method, multipliers):
    task = LeastSquares()
    result, found = learnt(task, method, multipliers=multipliers, epochs=600)
    best = method.decompose(task.best()).to_dense().detach()
    torch.testing.assert_close(matrix(result), best, rtol=0, atol=1e-3)
    # Multipliers close the gap while the penalty is still finite.
    assert found["gaps"][-1] < (1e-6 if multipliers else 0.05)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_one_rank_it_is_reduced_rank_regression(seed):
    """The SVD of the weight in the norm of the inputs (Izenman 1975), where direct compression is
    far off. The optimum is that of a penalty that grows ever more slowly."""
    task = LeastSquares(spread=2.0, seed=seed)
    moment = task.inputs.T @ task.inputs / len(task.inputs)
    root = torch.linalg.cholesky(moment)
    whitened = TruncatedSVD(rank=2).decompose(task.best() @ root).to_dense().detach()
    optimum = task.loss_at(torch.linalg.solve_triangular(root, whitened, upper=False, left=False))
    direct = task.loss_at(TruncatedSVD(rank=2).decompose(task.best()).to_dense().detach())
    ours = task.loss_at(matrix(learnt(task, TruncatedSVD(rank=2))[0]))
    assert optimum * (1 - 1e-9) < ours < 1.005 * optimum
    assert direct > 1.25 * optimum


def test_of_one_sparsity_it_is_the_best_subset_or_near():
    """Against all masks of 3 weights of the first output; no method is sure to find the best."""
    task = LeastSquares(spread=2.0)
    result, _ = learnt(task, MagnitudePruning(0.5, within="row"))
    ours = matrix(result)
    assert ((ours != 0).sum(dim=1) == INNER // 2).all()
    inputs, targets = task.inputs, task.targets

    def least(output, columns):
        own = inputs[:, columns]
        fit = own @ torch.linalg.lstsq(own, targets[:, [output]]).solution
        return float((fit[:, 0] - targets[:, output]).square().mean())

    masks = [list(columns) for columns in itertools.combinations(range(INNER), INNER // 2)]
    for output, row in enumerate(ours):
        losses = sorted(least(output, columns) for columns in masks)
        reached = float((inputs @ row - targets[:, output]).square().mean())
        assert losses[0] * (1 - 1e-9) <= reached <= losses[1] * (1 + 1e-6)
        # The values of the mask it found are the best.
        own = least(output, row.nonzero()[:, 0].tolist())
        assert reached == pytest.approx(own, rel=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_it_is_better_than_direct_compression_and_exactly_of_the_form(method):
    task = LeastSquares(spread=1.5)
    direct = task.loss_at(method.decompose(task.best()).to_dense().detach())
    result, _ = learnt(task, method)
    found = matrix(result)
    assert task.loss_at(found) < direct
    # What it is already is compressed without error.
    again = method.decompose(found).to_dense().detach()
    torch.testing.assert_close(again, found, rtol=0, atol=1e-6)
    assert result.layers[0].bytes == method.decompose(task.best()).nbytes


def test_a_sum_with_many_optima_is_of_its_form_at_the_end():
    method = LowRankPlusSparse(1, 0.8, iterations=30)
    result, found = learnt(LeastSquares(spread=1.5), method, epochs=150)
    low_rank, sparse = result.model[0].factorization.terms
    assert low_rank.factors[0].shape[1] == 1 and sparse.params == 6
    assert found["gaps"][-1] < 1e-3 < found["gaps"][0]


def test_the_best_codebook_of_two_values_is_found():
    """Where inputs are white: that of k-means over the least squares."""
    task = LeastSquares()
    result, _ = learnt(task, CodebookQuantization(1), epochs=600)
    best = CodebookQuantization(1).decompose(task.best()).to_dense().detach()
    torch.testing.assert_close(matrix(result), best, rtol=0, atol=1e-3)


def test_without_a_penalty_it_is_plain_training():
    """And then direct compression."""
    task = LeastSquares(spread=2.0)
    options = {"penalty": 1e-12, "growth": 1.0, "multipliers": False}
    result, found = learnt(task, MagnitudePruning(0.5), epochs=40, steps=4, **options)
    plain = task.model()
    trained = algorithm(epochs=40, steps=4).recover(plain, task)
    assert found["losses"] == pytest.approx(trained["losses"], rel=1e-9)
    wanted = MagnitudePruning(0.5).decompose(plain[0].weight).to_dense()
    torch.testing.assert_close(matrix(result), wanted, rtol=1e-9, atol=1e-9)


def test_the_dense_model_is_trained_as_a_fine_tuning_of_as_many_epochs_would():
    task = LeastSquares()
    one, other = task.model(), task.model()
    algorithm(epochs=20, steps=4).recover(one, task)
    options = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant"}
    FineTune(epochs=20, learning_rate=0.2, batch_size=40, **options).recover(other, task)
    assert torch.equal(one[0].weight, other[0].weight)


def test_the_penalty_has_the_gradient_of_the_source():
    task = LeastSquares()
    model, target, mu = task.model(), torch.ones(5, 6).double(), 0.7
    weight = model[0].weight
    base = penalised(lambda model, batch: torch.zeros(()).double(), [weight], [target], mu)
    (gradient,) = torch.autograd.grad(base(model, None), weight)
    torch.testing.assert_close(gradient, mu * (weight.detach() - target))


def test_weights_that_stay_away_from_their_compressed_form_are_noted():
    task = LeastSquares()
    _, found = learnt(task, MagnitudePruning(0.5), epochs=3, steps=3, penalty=1e-3)
    assert found["gaps"][-1] > 0.05 and "away from their compressed form" in found["note"]
    assert "note" not in learnt(task, MagnitudePruning(0.5))[1]


def test_a_strong_penalty_does_not_diverge():
    """The learning rate is at most 1/μ."""
    result, found = learnt(LeastSquares(), MagnitudePruning(0.5), penalty=1e4, steps=3, epochs=30)
    assert found["gaps"][-1] < 1e-3 and bool(matrix(result).isfinite().all())


def test_an_allocation_chooses_anew():
    task = LeastSquares(spread=1.5)
    result, _ = learnt(task, GlobalMagnitude(0.5))
    assert int((matrix(result) != 0).sum()) == 15


def test_the_given_dense_model_and_its_mode_are_untouched():
    task = LeastSquares()
    dense = task.model()
    before = copy.deepcopy(dense.state_dict())
    result = compress(dense, MagnitudePruning(0.5))
    algorithm(epochs=4, steps=2).recover_compressed(result, task)
    assert torch.equal(dense[0].weight, before["0.weight"])
    assert not result.model.training


def test_another_recovery_may_follow():
    task = LeastSquares(spread=1.5)
    options = {"optimizer": "sgd", "momentum": 0.0}
    tune = FineTune(epochs=200, learning_rate=0.2, batch_size=40, **options)
    result = compress(task.model(), MagnitudePruning(0.5))
    alone, _ = learnt(task, MagnitudePruning(0.5), epochs=60, steps=6)
    steps = InOrder([algorithm(epochs=60, steps=6), tune])
    found = steps.recover_compressed(result, task)
    assert [set(own) >= {"losses"} for own in found["steps"]] == [True, True]
    assert torch.equal(matrix(result) != 0, matrix(alone) != 0)
    assert task.loss_at(matrix(result)) < task.loss_at(matrix(alone))


def test_a_model_that_does_not_know_how_it_was_made_is_refused():
    task = LeastSquares()
    result = compress(task.model(), MagnitudePruning(0.5))
    result.again = None
    with pytest.raises(ValueError, match="does not know how it was made"):
        algorithm().recover_compressed(result, task)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"epochs": 10, "steps": 3}, "epochs=10 must be a multiple of steps=3"),
        ({"penalty": 0}, "penalty=0 must be above 0"),
        ({"growth": 0.5}, "growth=0.5 must be at least 1"),
        ({"multipliers": 1}, "multipliers=1 must be True or False"),
    ],
)
def test_options_outside_their_ranges_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        algorithm(**options)


def test_kernels_and_biases_go_along():
    """A convolution in the spatial view, whose kernel is no plain reshape of its matrix."""
    from lowrank.recovery.twin import Twin

    model = nn.Sequential(nn.Conv2d(3, 4, (3, 2), groups=1), nn.Flatten(), nn.Linear(4, 2))
    result = compress(model, TruncatedSVD(rank=2, view="spatial"))
    twin = Twin(copy.deepcopy(model))
    with torch.no_grad():
        for layer in (result.model[0], result.model[2]):
            layer.bias.add_(1)
    twin.take(result)
    x = torch.randn(5, 3, 3, 2)
    torch.testing.assert_close(twin.model(x), result.model(x))


@pytest.mark.parametrize("adapter", [LoRA(1, 2, base=MagnitudePruning(0.5)), DoRA(LoRA(1, 2))])
def test_adapters_whose_frozen_base_it_would_train_are_refused_before(adapter):
    task = LeastSquares()
    result = compress(task.model(), adapter)
    before = {name: tensor.clone() for name, tensor in result.model.state_dict().items()}
    for recovery in (algorithm(), InOrder([algorithm()])):
        with pytest.raises(ValueError, match="would train the frozen base of the adapters"):
            recovery.recover_compressed(result, task)
    now = result.model.state_dict()
    assert all(torch.equal(tensor, now[name]) for name, tensor in before.items())
