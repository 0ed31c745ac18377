"""Robust PCA finds a planted low rank and the planted gross errors, exactly."""

import pytest
import torch
from torch import Tensor

from lowrank.decomposers import LowRankPlusSparse, RobustPCA
from lowrank.factorizations import Dense, Product, Sparse, Sum


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 100 * shape[0] + shape[1])
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def planted(size: float, out: int = 80, inner: int = 60, rank: int = 3) -> tuple[Tensor, Tensor]:
    low_rank = random(out, rank) @ random(rank, inner)
    return low_rank, size * random(out, inner, seed=1) * (random(out, inner, seed=2) > 1.65)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float(torch.linalg.matrix_norm(found.detach() - wanted) / wanted.norm())


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_planted_parts_come_back_however_large_the_errors(size):
    low_rank, sparse = planted(size)
    form = RobustPCA().decompose(low_rank + sparse)
    assert isinstance(form, Sum)
    first, second = form.terms
    assert isinstance(first, Product) and isinstance(second, Sparse)
    assert relative(first.to_dense(), low_rank) < 1e-6 * max(size, 1)
    assert relative(second.to_dense(), sparse) < 1e-6
    assert first.factors[0].shape[1] == 3
    assert torch.equal(second.to_dense() != 0, sparse != 0)


def test_the_sum_meets_the_tolerance():
    weight = sum(planted(5.0))
    for tolerance in (1e-4, 1e-6, 1e-8):
        assert (
            relative(RobustPCA(tolerance=tolerance).decompose(weight).to_dense(), weight)
            < tolerance
        )


def test_it_is_the_minimum_no_other_split_is_better():
    """‖L‖_* + λ‖S‖_1 grows when anything is moved from one part to the other."""
    low_rank, sparse = planted(2.0)
    form = RobustPCA(tolerance=1e-10).decompose(low_rank + sparse)
    first, second = (term.to_dense().detach() for term in form.terms)

    def objective(move: Tensor) -> float:
        nuclear = torch.linalg.matrix_norm(first + move, "nuc")
        return float(nuclear + 80**-0.5 * (second - move).abs().sum())

    least = objective(torch.zeros_like(first))
    for seed in range(20):
        for scale in (1e-3, 1e-1):
            assert objective(scale * random(80, 60, seed=seed)) > least
    assert objective(second) > least
    assert objective(-first) > least


def test_around_the_proven_weight_the_parts_are_found_and_far_from_it_they_are_traded():
    """Proven is 1/√80 = 0.11. A smaller one makes S fuller, a larger one L of higher rank."""
    weight = sum(planted(3.0))

    def sizes(sparse_weight: float | None) -> tuple[int, int]:
        low_rank, sparse = RobustPCA(sparse_weight).decompose(weight).terms
        return low_rank.factors[0].shape[1], sparse.params

    planted_sizes = (3, int((planted(3.0)[1] != 0).sum()))
    assert sizes(None) == sizes(0.09) == sizes(0.2) == planted_sizes
    assert sizes(0.07)[1] > planted_sizes[1]
    assert sizes(0.3)[0] > planted_sizes[0]


def test_pure_parts_come_back_as_one_term():
    low_rank, sparse = planted(5.0)
    assert isinstance(RobustPCA().decompose(low_rank), Product)
    only = RobustPCA(sparse_weight=0.05).decompose(sparse)
    assert isinstance(only, Sparse)
    assert relative(only.to_dense(), sparse) < 1e-7


def test_agrees_with_the_alternation_that_is_told_rank_and_number():
    low_rank, sparse = planted(5.0)
    weight = low_rank + sparse
    share = 1 - float((sparse != 0).double().mean())
    told = LowRankPlusSparse(3, share, iterations=200).decompose(weight)
    torch.testing.assert_close(
        RobustPCA().decompose(weight).to_dense(), told.to_dense(), rtol=0, atol=1e-6
    )


def test_a_weight_without_such_parts_stays_dense_and_says_so():
    weight = random(30, 40)
    form = RobustPCA().decompose(weight)
    assert isinstance(form, Dense)
    assert torch.equal(form.weight, weight)
    assert form.note.startswith("kept dense: Sum(LowRank 40→")


def test_a_zero_weight_stays_dense():
    assert "a zero weight has no parts" in RobustPCA().decompose(torch.zeros(4, 5)).note


def test_what_has_not_converged_is_refused():
    text = r"\(30, 40\) has not converged: after max_iterations=3 .* tolerance=1e-08. Raise either"
    with pytest.raises(ValueError, match=text):
        RobustPCA(max_iterations=3).decompose(random(30, 40))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sparse_weight": 0.0}, "sparse_weight=0.0 must be above 0"),
        ({"tolerance": 0.0}, "tolerance=0.0 must be above 0"),
        ({"max_iterations": 0}, "max_iterations=0 must be at least 1"),
        ({"view": "row"}, "view='row' must be one of"),
    ],
)
def test_bad_hyperparameters_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        RobustPCA(**options)
