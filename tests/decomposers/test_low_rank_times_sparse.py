"""A thin dense factor times a sparse one: both half steps are optimal, so the error only falls."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from made_tensors import tensor_bytes
from torch import Tensor

from lowrank.approximation.comparison import svd_within
from lowrank.approximation.sparse_part import SparsePart
from lowrank.decomposers import LowRankTimesSparse, TruncatedSVD
from lowrank.factorizations import Dense, Product, Sparse
from lowrank.norms import IDENTITY, Diagonal, Full


def error(weight: Tensor, dense: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight - dense.detach()))


def parts(form) -> tuple[Tensor, Tensor]:
    assert isinstance(form, Product), form.notes
    left, right = form.factors
    assert isinstance(left, Dense) and isinstance(right, Sparse)
    return left.to_dense().detach(), right.to_dense().detach()


def coded() -> Tensor:
    """Few combinations of few of 8 columns."""
    return random(30, 8) @ (random(8, 60) * (random(8, 60, seed=1) > 1))


def pruned(matrix: Tensor, count: int) -> Tensor:
    floor = matrix.abs().flatten().sort(descending=True).values[count - 1]
    return torch.where(matrix.abs() >= floor, matrix, 0)


@settings(max_examples=30)
@given(st.integers(2, 8), st.floats(0.2, 0.9), st.integers(0, 100))
def test_the_error_never_grows_and_is_never_above_that_of_pruning_the_svd(rank, sparsity, seed):
    weight = random(30, 60, seed=seed)
    count = rank * 60 - round(sparsity * rank * 60)
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    plain = min(
        error(weight, u @ pruned(s[:, None] * vh, count)),
        error(weight, u * s.sqrt() @ pruned(s.sqrt()[:, None] * vh, count)),
        error(weight, u * s @ pruned(vh, count)),
    )

    def after(iterations: int) -> float:
        method = LowRankTimesSparse(rank, sparsity=sparsity, iterations=iterations)
        return error(weight, method.decompose(weight).to_dense())

    assert after(0) <= plain * (1 + 1e-12)
    # The last step, a fit by least squares, is no part of the alternation; without it the error
    # falls monotonically, with it the end is still below the start.
    assert after(20) < after(0)


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
@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_in_every_norm_the_alternation_is_monotone(name, sparsity):
    weight, norm = coded() + 0.3 * random(30, 60, seed=3), norms(30, 60)[name]
    part = SparsePart(Full(norm.second_moment(weight)), round((1 - sparsity) * 8 * 60))
    scaled = norm.row_weights(weight).sqrt()[:, None] * weight
    errors = []
    for iterations in range(8):
        method = LowRankTimesSparse(8, sparsity=sparsity, iterations=iterations)
        right = method._alternate(weight, norm, part, 8).values
        # The best left of this S that is orthonormal in the weights of the rows.
        u, _, vh = torch.linalg.svd(
            scaled @ norm.second_moment(weight) @ right.T, full_matrices=False
        )
        errors.append(part.norm(scaled - u @ vh @ right))
    assert all(b <= a * (1 + 1e-9) for a, b in zip(errors, errors[1:], strict=False))
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("name", ["identity", "diagonal", "full"])
@settings(max_examples=10)
@given(ratio=st.floats(1.5, 6), seed=st.integers(0, 50))
def test_in_every_norm_never_worse_than_the_svd_of_as_many_bytes(name, ratio, seed):
    weight, norm = random(30, 60, seed=seed), norms(30, 60)[name]
    form = LowRankTimesSparse(compression_ratio=ratio, iterations=3).decompose(weight, norm)
    error = norm.relative_error(weight, form.to_dense())
    svd = svd_within(weight, norm, tensor_bytes(form))
    assert svd is None or error <= norm.relative_error(weight, svd.to_dense())
    assert error < 1


@pytest.mark.parametrize("name", ["diagonal", "full"])
def test_left_is_the_best_partner_in_the_norm(name):
    weight, norm = coded() + 0.3 * random(30, 60, seed=3), norms(30, 60)[name]
    left, right = parts(LowRankTimesSparse(8).decompose(weight, norm))
    root = torch.linalg.cholesky(norm.second_moment(weight))
    best = torch.linalg.lstsq((right @ root).T, (weight @ root).T).solution.T
    torch.testing.assert_close(left, best)


@pytest.mark.parametrize("sparsity", [0.3, 0.7, 0.9])
def test_the_alternation_is_monotone(sparsity):
    """Seen through the orthonormal basis of the stored left: its best S for that count."""
    weight = coded() + 0.3 * random(30, 60, seed=3)
    errors = []
    for iterations in range(12):
        method = LowRankTimesSparse(8, sparsity=sparsity, iterations=iterations)
        _, right = parts(method.decompose(weight))
        u, _, vh = torch.linalg.svd(weight @ right.T, full_matrices=False)
        errors.append(error(weight, u @ vh @ right))  # the best orthonormal left of this S
    assert all(b <= a * (1 + 1e-12) for a, b in zip(errors, errors[1:], strict=False))


def test_left_is_the_best_partner_of_the_sparse_factor():
    weight = random(30, 60)
    left, right = parts(LowRankTimesSparse(8).decompose(weight))
    best = torch.linalg.lstsq(right.T, weight.T).solution.T
    torch.testing.assert_close(left, best)


def test_without_zeros_it_is_the_truncated_svd():
    weight = random(30, 60)
    form = LowRankTimesSparse(6, sparsity=0.0).decompose(weight)
    svd = TruncatedSVD(rank=6).decompose(weight)
    torch.testing.assert_close(form.to_dense(), svd.to_dense())


def test_a_planted_orthonormal_dictionary_is_found():
    """W = U S with few non-zeros in each column of S comes back, from the start at the SVD."""
    left = torch.linalg.qr(random(20, 4)).Q
    sparse = random(4, 400) * (random(4, 400, seed=1) > 1.0)
    weight = left @ sparse
    share = 1 - float((sparse != 0).double().mean())
    form = LowRankTimesSparse(4, sparsity=share, iterations=300).decompose(weight)
    assert error(weight, form.to_dense()) < 1e-9 * torch.linalg.matrix_norm(weight)


def test_more_zeros_at_the_same_bytes_beat_the_svd_of_a_wide_weight():
    weight = random(20, 5) @ (random(5, 400) * (random(5, 400, seed=1) > 0.8))
    weight = weight + 0.3 * random(20, 400)
    for ratio in (2, 4, 8):
        form = LowRankTimesSparse(compression_ratio=ratio).decompose(weight)
        svd = TruncatedSVD(compression_ratio=ratio).decompose(weight)
        assert error(weight, form.to_dense()) < error(weight, svd.to_dense())


def test_rank_and_non_zeros_are_those_asked_for():
    form = LowRankTimesSparse(5, sparsity=0.75).decompose(random(30, 40))
    left, right = form.factors
    assert (left.shape, right.shape) == ((30, 5), (5, 40))
    assert right.params == 50
    assert form.describe() == "Product(Dense 5→30, Sparse 40→5, 75.0 % zeros (bitmask))"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@settings(max_examples=40)
@given(
    out=st.integers(20, 90),
    inner=st.integers(20, 300),
    ratio=st.floats(1.2, 7),
    sparsity=st.floats(0, 0.95),
)
def test_it_is_the_largest_rank_that_reaches_the_ratio(dtype, out, inner, ratio, sparsity):
    weight = random(out, inner).to(dtype)
    method = LowRankTimesSparse(compression_ratio=ratio, sparsity=sparsity, iterations=0)
    rank = method.rank_for(weight)

    def taken(rank: int) -> int:
        kept = torch.zeros(rank * inner, dtype=torch.bool)
        kept[: rank * inner - round(sparsity * rank * inner)] = True
        right = Sparse.from_dense(torch.ones(rank, inner, dtype=dtype), kept.view(rank, inner))
        return tensor_bytes(Product(Dense(torch.ones(out, rank, dtype=dtype)), right))

    assert taken(rank) <= weight.nbytes / ratio
    assert rank == min(out, inner) or taken(rank + 1) > weight.nbytes / ratio
    assert tensor_bytes(method.decompose(weight)) <= weight.nbytes / ratio


def test_a_sparse_factor_with_an_empty_row_is_no_trouble():
    weight = torch.zeros(20, 30, dtype=torch.float64)
    weight[0, :5] = 1
    form = LowRankTimesSparse(3, sparsity=0.9).decompose(weight)
    assert bool(torch.isfinite(form.to_dense()).all())
    assert error(weight, form.to_dense()) < 1e-12


def test_where_it_would_not_be_smaller_the_layer_stays_dense():
    weight = random(30, 40)
    form = LowRankTimesSparse(30, sparsity=0.1).decompose(weight)
    assert isinstance(form, Dense)
    assert torch.equal(form.weight, weight)
    assert form.notes[0].startswith("kept dense: Product(Dense 30→30, Sparse 40→30, 10.0 % zeros")
    assert form.notes[0].endswith("dense has 9600")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "exactly one of rank and compression_ratio"),
        ({"rank": 2, "compression_ratio": 4}, "exactly one of rank and compression_ratio"),
        ({"rank": 2, "sparsity": 1.0}, r"sparsity=1.0 must lie in \[0, 1\)"),
        ({"compression_ratio": 0.9}, "compression_ratio=0.9 must be at least 1"),
        ({"rank": 2, "iterations": -1}, "iterations=-1 must be at least 0"),
        ({"rank": 2, "view": "row"}, "view='row' must be one of"),
    ],
)
def test_bad_hyperparameters_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        LowRankTimesSparse(**options)


@pytest.mark.parametrize("rank", [31, 100])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(ValueError, match=rf"rank={rank} does not fit .*\(30, 40\).*1\.\.30"):
        LowRankTimesSparse(rank).decompose(random(30, 40))


def test_a_ratio_out_of_reach_is_refused():
    with pytest.raises(ValueError, match=r"=50 is out of reach .*\(30, 40\): rank 1 gives 23.7"):
        LowRankTimesSparse(compression_ratio=50).decompose(random(30, 40))
