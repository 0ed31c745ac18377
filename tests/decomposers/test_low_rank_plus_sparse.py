"""GoDec: both half steps are best approximations, so the error only falls."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from made_tensors import tensor_bytes
from torch import Tensor

from lowrank.approximation.comparison import svd_within
from lowrank.approximation.joint_parts import joint_parts
from lowrank.approximation.low_rank import Factors, nearest
from lowrank.approximation.patterns import Blocks, projection
from lowrank.approximation.sparse_part import nearest_sparse
from lowrank.decomposers import LowRankPlusSparse, TruncatedSVD
from lowrank.factorizations import Dense, Product, Sparse, Sum
from lowrank.norms import IDENTITY, Diagonal, Full


def planted(out: int = 60, inner: int = 50, rank: int = 2, seed: int = 0) -> Tensor:
    """Low rank plus 3 % large entries."""
    spikes = 10 * random(out, inner, seed=seed + 1)
    where = random(out, inner, seed=seed + 2) > 1.88
    return random(out, rank, seed=seed) @ random(rank, inner, seed=seed) + spikes * where


def error(weight: Tensor, form) -> float:
    return float(torch.linalg.matrix_norm(weight - form.to_dense().detach()))


def parts(form) -> tuple[Product, Sparse]:
    assert isinstance(form, Sum), form.notes
    low_rank, sparse = form.terms
    assert isinstance(low_rank, Product) and isinstance(sparse, Sparse)
    return low_rank, sparse


@settings(max_examples=20)
@given(st.integers(1, 5), st.floats(0.8, 0.98), st.integers(0, 100))
def test_the_error_never_grows_with_iterations(rank, sparsity, seed):
    weight = random(30, 40, seed=seed)
    errors = [
        error(weight, LowRankPlusSparse(rank, sparsity, iterations=n).decompose(weight))
        for n in (1, 2, 3, 5, 10, 20)
    ]
    assert all(b <= a * (1 + 1e-12) for a, b in zip(errors, errors[1:], strict=False))
    assert errors[0] < error(weight, TruncatedSVD(rank=rank).decompose(weight))
    assert errors[-1] < errors[0]


def norms(out: int, inner: int) -> dict:
    """Of inputs that come together, with rows of different weight."""
    inputs = random(inner, 3 * inner, seed=7) * torch.linspace(0.2, 2, inner)[:, None]
    inputs = inputs + 2 * inputs.mean(dim=0)
    moment, rows = inputs @ inputs.T / (3 * inner), torch.linspace(0.5, 2, out).double()
    return {
        "identity": IDENTITY,
        "diagonal": Diagonal(moment.diagonal(), rows),
        "full": Full(moment, rows),
    }


@pytest.mark.parametrize("name", ["identity", "diagonal", "full"])
@settings(max_examples=8)
@given(rank=st.integers(1, 4), sparsity=st.floats(0.8, 0.97), seed=st.integers(0, 100))
def test_in_every_norm_the_error_never_grows_and_is_below_that_of_the_svd(
    name, rank, sparsity, seed
):
    weight = planted(24, 30, seed=seed) + 0.3 * random(24, 30, seed=seed + 9)
    norm = norms(24, 30)[name]
    forms = [
        LowRankPlusSparse(rank, sparsity, iterations=n).decompose(weight, norm)
        for n in (1, 2, 4, 8)
    ]
    errors = [norm(weight - form.to_dense().detach()) for form in forms]
    assert all(b <= a * (1 + 1e-9) for a, b in zip(errors, errors[1:], strict=False))
    same_rank = TruncatedSVD(rank=rank).decompose(weight, norm).to_dense().detach()
    assert errors[0] <= norm(weight - same_rank)
    more = svd_within(weight, norm, tensor_bytes(forms[0]))
    assert more is None or errors[0] <= norm(weight - more.to_dense().detach())


@pytest.mark.parametrize("name", ["identity", "diagonal", "full"])
def test_in_every_norm_exact_where_the_weight_is_of_that_form(name):
    norm = norms(60, 50)[name]
    # Spikes that stand out where each input and output counts as it does.
    weight = planted() / norm.entry_weights(planted()).sqrt()
    form = LowRankPlusSparse(2, 0.95, iterations=150).decompose(weight, norm)
    assert norm.relative_error(weight, form.to_dense()) < 1e-6


def test_in_the_full_norm_the_values_are_the_best_for_both_parts():
    """Least squares of what the stored factors leave, row by row, on the mask."""
    weight = planted(24, 30) + 0.3 * random(24, 30, seed=9)
    norm = norms(24, 30)["full"]
    low_rank, sparse = parts(LowRankPlusSparse(2, 0.9, iterations=3).decompose(weight, norm))
    missed = weight - low_rank.to_dense().detach()
    root = torch.linalg.cholesky(norm.second_moment(weight))
    for row in range(24):
        kept = sparse.mask[row]
        best = torch.linalg.lstsq(root[kept].T, (missed[row] @ root)[:, None]).solution[:, 0]
        torch.testing.assert_close(sparse.to_dense().detach()[row, kept], best)


@pytest.mark.parametrize("seed", range(3))
def test_in_the_full_norm_both_parts_at_once_are_nearer_than_each_in_turn(seed):
    """Than the alternation of the best matrix of the rank and ALPS, which it took before."""
    weight = planted(24, 30, seed=seed) + 0.3 * random(24, 30, seed=seed + 9)
    norm = norms(24, 30)["full"]
    form = LowRankPlusSparse(2, 0.9).decompose(weight, norm)
    project = projection(Blocks(), (24, 30), parts(form)[1].params)
    sparse, errors = torch.zeros_like(weight), []
    for _ in range(20):
        factors = nearest(weight - sparse, 2, norm)
        rest = weight - factors.left @ factors.right
        sparse = nearest_sparse(rest, norm, project, 50).values
        errors.append(norm(rest - sparse))
    assert norm(weight - form.to_dense().detach()) <= min(errors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_factors_found_first_stay_where_they_are_nearer_as_stored(dtype):
    """At full rank the error of the SVD is that of its rounding, and S makes up for it."""
    weight, norm = planted(16, 24).to(dtype), norms(16, 24)["full"]
    start = nearest(weight.double(), 16, norm)

    def stored(first: Factors, turns: int, count: int = 50) -> float:
        (left, right, _), sparse = joint_parts(weight, norm, first, count, turns)
        return norm(weight.double() - left.double() @ right.double() - sparse.values)

    # The same start, as if its own error were not known to be nearly 0.
    unlike = Factors(start.left, 1.5 * start.right)
    assert stored(start, 20) <= stored(unlike, 20) * (1 + 1e-9)


def test_where_the_svd_is_nearer_it_comes_back_with_a_note():
    weight = random(30, 4) @ random(4, 40)
    form = LowRankPlusSparse(2, 0.7, iterations=1).decompose(weight)
    assert isinstance(form, Product)
    assert "instead of a hybrid: Sum(LowRank 40→2→30, Sparse" in " ".join(form.notes)


def test_one_iteration_is_the_svd_and_the_largest_of_what_it_misses():
    weight = random(30, 40)
    low_rank, sparse = parts(LowRankPlusSparse(3, 0.9, iterations=1).decompose(weight))
    u, s, vh = np.linalg.svd(weight.numpy())
    best = torch.from_numpy(u[:, :3] * s[:3] @ vh[:3])
    torch.testing.assert_close(low_rank.to_dense().detach(), best)
    missed = weight - best
    floor = missed.abs().flatten().sort(descending=True).values[119]
    wanted = torch.where(missed.abs() >= floor, missed, 0)
    torch.testing.assert_close(sparse.to_dense().detach(), wanted)


def test_each_part_is_the_best_for_the_other():
    """The stored parts are a fixed point: neither half step finds anything better."""
    weight = planted()
    form = LowRankPlusSparse(2, 0.95, iterations=200).decompose(weight)
    low_rank, sparse = (term.to_dense().detach() for term in form.terms)
    u, s, vh = np.linalg.svd((weight - sparse).numpy())
    torch.testing.assert_close(low_rank, torch.from_numpy(u[:, :2] * s[:2] @ vh[:2]))
    missed = (weight - low_rank).abs()
    assert missed[sparse == 0].max() <= missed[sparse != 0].min()
    assert torch.equal(sparse[sparse != 0], (weight - low_rank)[sparse != 0])


def test_exact_where_the_weight_is_of_that_form():
    weight = planted()
    form = LowRankPlusSparse(2, 0.95, iterations=200).decompose(weight)
    assert error(weight, form) < 1e-9 * torch.linalg.matrix_norm(weight)


def test_rank_and_non_zeros_are_those_asked_for():
    low_rank, sparse = parts(LowRankPlusSparse(3, 0.9).decompose(random(30, 40)))
    assert [f.shape for f in low_rank.factors] == [(30, 3), (3, 40)]
    assert sparse.params == 120
    assert low_rank.describe() == "LowRank 40→3→30"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@settings(max_examples=30)
@given(
    out=st.integers(20, 90),
    inner=st.integers(20, 300),
    ratio=st.floats(1.5, 7),
    rank_ratio=st.floats(0.05, 0.6),
)
def test_what_is_stored_reaches_the_ratio_and_no_non_zero_more_would(
    dtype, out, inner, ratio, rank_ratio
):
    weight = random(out, inner).to(dtype)
    method = LowRankPlusSparse(compression_ratio=ratio, rank_ratio=rank_ratio, iterations=1)
    form = method.decompose(weight)
    low_rank, sparse = parts(form)
    assert weight.nbytes / tensor_bytes(form) >= ratio * (1 - 1e-12)
    # One value more, or the step of an index to a wider integer, would exceed the budget.
    spare = weight.nbytes / ratio - tensor_bytes(form)
    assert spare < weight.itemsize + 2 + 2 * (out + 1) + sparse.params
    rank = low_rank.factors[0].shape[1]
    share = rank * (out + inner) * weight.itemsize / (weight.nbytes / ratio)
    assert rank == 1 or share <= rank_ratio


def test_where_it_would_not_be_smaller_the_layer_stays_dense():
    weight = random(30, 40)
    form = LowRankPlusSparse(rank=10, sparsity=0.4).decompose(weight)
    assert isinstance(form, Dense)
    assert torch.equal(form.weight, weight)
    text = (
        "kept dense: Sum(LowRank 40→10→30, Sparse 40→30, 40.0 % zeros (bitmask)) needs 11510 bytes"
    )
    assert form.notes == (f"{text}, dense has 9600",)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "either rank and sparsity, or compression_ratio"),
        ({"rank": 2}, "either rank and sparsity"),
        ({"sparsity": 0.5}, "either rank and sparsity"),
        ({"rank": 2, "compression_ratio": 4}, "either rank and sparsity"),
        ({"rank": 2, "sparsity": 0.5, "compression_ratio": 4}, "either rank and sparsity"),
        ({"rank": 2, "sparsity": 1.0}, r"sparsity=1.0 must lie in \[0, 1\)"),
        ({"rank": 2, "sparsity": -0.1}, r"sparsity=-0.1 must lie in \[0, 1\)"),
        ({"compression_ratio": 0.9}, "compression_ratio=0.9 must be at least 1"),
        ({"compression_ratio": 4, "rank_ratio": 1.0}, r"rank_ratio=1.0 must lie in \(0, 1\)"),
        ({"compression_ratio": 4, "iterations": 0}, "iterations=0 must be at least 1"),
        ({"compression_ratio": 4, "view": "row"}, "view='row' must be one of"),
    ],
)
def test_bad_hyperparameters_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        LowRankPlusSparse(**options)


@pytest.mark.parametrize("rank", [31, 100])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(ValueError, match=rf"rank={rank} does not fit .*\(30, 40\).*1\.\.30"):
        LowRankPlusSparse(rank=rank, sparsity=0.9).decompose(random(30, 40))


def test_a_ratio_out_of_reach_is_refused():
    text = r"=20 is out of reach .*\(30, 40\): it leaves 480 bytes, and rank 1 alone takes 560"
    with pytest.raises(ValueError, match=text):
        LowRankPlusSparse(compression_ratio=20).decompose(random(30, 40))


@pytest.mark.parametrize("view", ["channel", "spatial"])
def test_the_view_is_the_one_asked_for(view):
    assert LowRankPlusSparse(compression_ratio=4, view=view).kernel_view() == view
