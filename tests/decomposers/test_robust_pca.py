"""Robust PCA finds a planted low rank and the planted gross errors, exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from scipy.optimize import minimize
from torch import Tensor

from lowrank.decomposers import LowRankPlusSparse, RobustPCA
from lowrank.decomposers.robust_pca import lower_bound, shrunk, solve
from lowrank.factorizations import Dense, Product, Sparse, Sum
from lowrank.norms import Diagonal, Full


def planted(size: float, out: int = 80, inner: int = 60, rank: int = 3) -> tuple[Tensor, Tensor]:
    low_rank = random(out, rank) @ random(rank, inner)
    return low_rank, size * random(out, inner, seed=1) * (random(out, inner, seed=2) > 1.65)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float(torch.linalg.matrix_norm(found.detach() - wanted) / wanted.norm())


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_planted_parts_come_back_however_large_the_errors(size):
    low_rank, sparse = planted(size)
    # Beside errors of a thousand a share of 1e-8 is 1e-5.
    form = RobustPCA(tolerance=1e-8 / size).decompose(low_rank + sparse)
    assert isinstance(form, Sum)
    first, second = form.terms
    assert isinstance(first, Product) and isinstance(second, Sparse)
    assert relative(first.to_dense(), low_rank) < 1e-6 * max(size, 1)
    assert relative(second.to_dense(), sparse) < 1e-6
    assert first.factors[0].shape[1] == 3
    assert torch.equal(second.to_dense().abs() > 1e-6 * size, sparse != 0)


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

    def moved(move: Tensor) -> float:
        return float(objective(first + second, first + move, 80**-0.5))

    least = moved(torch.zeros_like(first))
    for seed in range(20):
        for scale in (1e-3, 1e-1):
            assert moved(scale * random(80, 60, seed=seed)) > least
    assert moved(second) > least
    assert moved(-first) > least


def test_around_the_proven_weight_the_parts_are_found_and_far_from_it_they_are_traded():
    """Proven is 1/√80 = 0.11. A smaller one makes S fuller, a larger one L of higher rank."""
    weight = sum(planted(3.0))

    def sizes(sparse_weight: float | None) -> tuple[int, int]:
        # Asked of the solver: so many numbers are no compression, and the layer would stay dense.
        proven = sparse_weight or 80**-0.5
        split = solve(weight, sparse_weight=proven, tolerance=1e-6, max_iterations=2000)
        return split.left.shape[1], int((split.sparse != 0).sum())

    planted_sizes = (3, int((planted(3.0)[1] != 0).sum()))
    assert sizes(None) == sizes(0.09) == sizes(0.2) == planted_sizes
    assert sizes(0.07)[1] > planted_sizes[1]
    assert sizes(0.4)[0] > planted_sizes[0]


def objective(weight: Tensor, first: Tensor, sparse_weight: float) -> Tensor:
    nuclear = torch.linalg.matrix_norm(first, "nuc")
    return nuclear + sparse_weight * (weight - first).abs().sum()


def descended(weight: Tensor, sparse_weight: float) -> Tensor:
    """The low rank part by plain quasi-Newton steps on ever less smoothed norms."""
    first = 0.5 * weight
    for smoothing in 10.0 ** -torch.arange(1, 7):

        def smooth(x, smoothing=smoothing):
            matrix = torch.from_numpy(x).view(weight.shape).requires_grad_()
            missing = ((weight - matrix).square() + smoothing**2).sqrt().sum()
            gram = matrix @ matrix.T + smoothing**2 * torch.eye(len(weight))
            value = torch.linalg.eigvalsh(gram).sqrt().sum() + sparse_weight * missing
            value.backward()
            return value.item(), matrix.grad.flatten().numpy()

        options = {"maxiter": 2000, "maxfun": 3000}
        start = first.flatten().numpy()
        found = minimize(smooth, start, jac=True, method="L-BFGS-B", options=options)
        first = torch.from_numpy(found.x).view(weight.shape)
    return first


@pytest.mark.parametrize("sparse_weight", [0.25, 0.4, 0.6])
def test_the_minimum_is_that_of_another_solver(sparse_weight):
    weight = random(6, 8)
    split = solve(weight, sparse_weight=sparse_weight, tolerance=1e-9, max_iterations=10_000)
    least = objective(weight, split.left @ split.right, sparse_weight)
    other = objective(weight, descended(weight, sparse_weight), sparse_weight)
    assert least <= other <= least * (1 + 1e-4)
    assert split.gap <= 1e-9


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.1, 0.6), st.floats(0.1, 10))
def test_the_bound_is_below_every_split(seed, sparse_weight, scale):
    weight, guess = random(8, 6, seed=seed), random(8, 6, seed=seed + 1)
    split = solve(weight, sparse_weight=sparse_weight, tolerance=1e-6, max_iterations=10_000)
    for first in (split.left @ split.right, guess, 0 * guess, weight):
        bound = lower_bound(weight, scale * guess, sparse_weight)
        assert bound <= objective(weight, first, sparse_weight) * (1 + 1e-12)


def test_in_the_diagonal_norm_the_scaled_weight_is_split():
    low_rank, sparse = planted(5.0)
    rows, columns = torch.linspace(0.5, 2, 80).double(), torch.linspace(0.01, 4, 60).double()
    weight = (low_rank + sparse) / rows.sqrt()[:, None] / columns.sqrt()
    first, second = RobustPCA().decompose(weight, Diagonal(columns, rows)).terms
    scaled = first.to_dense().detach() * rows.sqrt()[:, None] * columns.sqrt()
    assert relative(scaled, low_rank) < 1e-6
    assert torch.equal(second.to_dense() != 0, sparse != 0)


def test_the_full_norm_counts_by_its_diagonal():
    weight = sum(planted(5.0))
    inputs = random(60, 200) * torch.linspace(0.1, 3, 60)[:, None]
    moment = inputs @ inputs.T / 200
    by_full = RobustPCA().decompose(weight, Full(moment))
    by_diagonal = RobustPCA().decompose(weight, Diagonal(moment.diagonal()))
    assert torch.equal(by_full.to_dense(), by_diagonal.to_dense())


def test_inputs_and_rows_that_count_nothing_are_in_no_part():
    weight = sum(planted(5.0))
    columns, rows = torch.ones(60), torch.ones(80)
    columns[7], rows[:3] = 0, 0
    form = RobustPCA().decompose(weight, Diagonal(columns, rows))
    dense = form.to_dense().detach()
    assert not bool(dense[:, 7].any()) and not bool(dense[:3].any())
    seen = torch.ones(80, 60).bool()
    seen[:, 7], seen[:3] = False, False
    assert relative(dense * seen, weight * seen) < 1e-6


def test_the_note_has_the_certificate():
    (note,) = RobustPCA(tolerance=1e-6).decompose(sum(planted(5.0))).notes
    share = float(note.removeprefix("least sum of the norms, up to a share of "))
    assert 0 <= share <= 1e-6


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
    assert form.notes[0].startswith("kept dense: Sum(LowRank 40→")


def test_a_zero_weight_stays_dense():
    (note,) = RobustPCA().decompose(torch.zeros(4, 5)).notes
    assert "a zero weight has no parts" in note


def test_a_weight_of_which_nothing_counts_stays_dense():
    weight, columns = torch.zeros(4, 5), torch.ones(5)
    weight[:, 2], columns[2] = 1.0, 0.0
    found = RobustPCA().decompose(weight, Diagonal(columns))
    assert torch.equal(found.to_dense(), weight)
    assert "what counts nothing in the norm has no parts" in " ".join(found.notes)


def test_a_growing_penalty_finds_the_same_minimum_in_half_the_iterations():
    """Candès et al., section 4.1: what is found does not depend on how; a constant one is slow."""
    low_rank, sparse = planted(1.0)
    # As in their experiments, the errors are far larger than the entries of the low rank.
    weight = low_rank / 80 + sparse.sign()
    options = {"sparse_weight": 80**-0.5, "tolerance": 1e-7, "max_iterations": 2000}
    grown, constant = (solve(weight, growth=growth, **options) for growth in (1.5, 1.0))
    assert relative(grown.left @ grown.right, constant.left @ constant.right) < 1e-4
    assert 0 < grown.reached <= grown.iterations < 0.6 * constant.iterations


@pytest.mark.parametrize("out, inner", [(9, 6), (6, 9)])
def test_shrinkage_is_that_of_the_singular_values(out, inner):
    weight = random(out, inner)
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    for threshold in (0.0, 0.5 * float(s[2] + s[3]), 2 * float(s[0])):
        left, right, nuclear = shrunk(weight, threshold)
        shrunken = (s - threshold).clamp_min(0)
        torch.testing.assert_close(left @ right, u * shrunken @ vh)
        torch.testing.assert_close(nuclear, shrunken.sum())
        assert left.shape[1] == int((s > threshold).sum())


def test_what_has_not_converged_is_refused():
    text = r"\(30, 40\) has not converged: after max_iterations=3 .* tolerance=1e-06. Raise either"
    with pytest.raises(ValueError, match=text):
        RobustPCA(max_iterations=3).decompose(random(30, 40))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sparse_weight": 0.0}, "sparse_weight=0.0 must be above 0"),
        ({"tolerance": 0.0}, "tolerance=0.0 must lie in"),
        ({"max_iterations": 0}, "max_iterations=0 must be at least 1"),
        ({"view": "row"}, "view='row' must be one of"),
    ],
)
def test_bad_hyperparameters_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        RobustPCA(**options)
