"""Eckart and Young's theorem, and the three ways to say how much is kept."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from torch import Tensor

from lowrank.decomposers import TruncatedSVD
from lowrank.factorizations import Dense, Product


def of_rank(rank: int, out: int = 20, inner: int = 15) -> Tensor:
    return random(out, rank) @ random(rank, inner)


def spectrum(weight: Tensor) -> np.ndarray:
    """Singular values by another library."""
    return np.linalg.svd(weight.numpy(), compute_uv=False)


def rank_of(form) -> int:
    assert isinstance(form, Product), form.notes
    return form.factors[0].shape[1]


@given(st.integers(8, 20), st.integers(8, 20), st.integers(1, 3), st.integers(0, 1000))
def test_the_errors_are_the_discarded_spectrum_in_both_norms(out, inner, rank, seed):
    weight = random(out, inner, seed=seed)
    error = weight - TruncatedSVD(rank=rank).decompose(weight).to_dense().detach()
    rest = spectrum(weight)[rank:]
    assert torch.linalg.matrix_norm(error) == pytest.approx(np.sqrt((rest**2).sum()))
    assert torch.linalg.matrix_norm(error, 2) == pytest.approx(rest[0])


@given(st.integers(1, 8))
def test_a_matrix_of_that_rank_comes_back(rank):
    weight = of_rank(rank)
    torch.testing.assert_close(TruncatedSVD(rank=rank).decompose(weight).to_dense(), weight)


def test_no_other_pair_of_that_rank_is_closer():
    weight = random(12, 9)
    best = torch.linalg.matrix_norm(weight - TruncatedSVD(rank=3).decompose(weight).to_dense())
    for seed in range(1, 100):
        left = random(12, 3, seed=seed)
        right = torch.linalg.lstsq(left, weight).solution  # the best partner of this left
        assert torch.linalg.matrix_norm(weight - left @ right) >= best


def test_the_factors_are_equally_scaled():
    left, right = TruncatedSVD(rank=4).decompose(random(20, 15)).factors
    values = torch.from_numpy(spectrum(random(20, 15))[:4].copy())
    torch.testing.assert_close(left.weight.T @ left.weight, torch.diag(values))
    torch.testing.assert_close(right.weight @ right.weight.T, torch.diag(values))


def test_the_worked_example_has_200_000_params_five_times_fewer():
    form = TruncatedSVD(rank=100).decompose(random(1000, 1000).float())
    assert form.params == 200_000
    assert form.describe() == "LowRank 1000→100→1000"
    assert 1000 * 1000 / form.params == 5


class TestEnergy:
    @settings(deadline=None)
    @given(st.floats(0.05, 0.8), st.integers(0, 1000))
    def test_it_is_the_smallest_rank_that_keeps_the_share(self, energy, seed):
        weight = random(30, 40, seed=seed) * torch.logspace(0, -3, 40, dtype=torch.float64)
        rank = TruncatedSVD(energy=energy).rank_for(weight)
        kept = spectrum(weight) ** 2
        share = kept.cumsum() / kept.sum()
        assert share[rank - 1] >= energy * (1 - 1e-12)
        assert rank == 1 or share[rank - 2] < energy

    def test_all_of_it_is_the_rank_of_the_matrix(self):
        weight = torch.zeros(30, 40, dtype=torch.float64)
        weight[:3, :3] = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        assert TruncatedSVD(energy=1.0).rank_for(weight) == 3
        # 9/14 and 13/14 are held by 1 and 2 values.
        assert TruncatedSVD(energy=9 / 14).rank_for(weight) == 1
        assert TruncatedSVD(energy=0.65).rank_for(weight) == 2
        assert TruncatedSVD(energy=0.93).rank_for(weight) == 3

    def test_rounding_never_asks_for_more_than_everything(self):
        weight = random(7, 90)
        assert TruncatedSVD(energy=1.0).rank_for(weight) == 7

    def test_a_zero_weight_has_rank_one(self):
        assert TruncatedSVD(energy=0.9).rank_for(torch.zeros(5, 6)) == 1


class TestCompressionRatio:
    @settings(deadline=None)
    @given(st.integers(10, 200), st.integers(10, 200), st.floats(1.01, 4.9))
    def test_it_is_the_largest_rank_that_reaches_the_ratio(self, out, inner, ratio):
        rank = TruncatedSVD(compression_ratio=ratio).rank_for(torch.empty(out, inner))
        assert out * inner / (rank * (out + inner)) >= ratio * (1 - 1e-12)
        assert out * inner / ((rank + 1) * (out + inner)) < ratio

    def test_what_is_stored_reaches_it(self):
        weight = random(60, 90)
        form = TruncatedSVD(compression_ratio=3).decompose(weight)
        assert weight.numel() / form.params >= 3

    def test_out_of_reach_is_refused(self):
        with pytest.raises(ValueError, match=r"100.*out of reach .*\(20, 15\): rank 1 gives 8.57"):
            TruncatedSVD(compression_ratio=100).decompose(random(20, 15))


@pytest.mark.parametrize(("rank", "dense"), [(8, False), (9, True), (15, True)])
def test_where_factoring_would_not_be_smaller_the_layer_stays_dense(rank, dense):
    """Break-even of 20 × 15 is rank 300 / 35 = 8.57."""
    weight = random(20, 15)
    form = TruncatedSVD(rank=rank).decompose(weight)
    assert isinstance(form, Dense) is dense
    assert form.params <= weight.numel()
    if dense:
        assert form.notes == (f"kept dense: rank {rank} needs {rank * 35} params, dense has 300",)
        assert torch.equal(form.weight, weight)
        assert form.weight.data_ptr() != weight.data_ptr()
    else:
        assert form.notes == ()


def test_break_even_itself_stays_dense():
    assert isinstance(TruncatedSVD(rank=5).decompose(random(10, 10)), Dense)
    assert rank_of(TruncatedSVD(rank=4).decompose(random(10, 10))) == 4


@pytest.mark.parametrize("rank", [16, 100])
def test_a_rank_that_does_not_fit_is_refused(rank):
    text = rf"rank={rank} does not fit a weight of shape \(20, 15\).*1\.\.15"
    with pytest.raises(ValueError, match=text):
        TruncatedSVD(rank=rank).decompose(random(20, 15))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "exactly one of rank, energy and compression_ratio"),
        ({"rank": 2, "energy": 0.5}, "exactly one"),
        ({"energy": 0.0}, r"energy=0.0 must lie in \(0, 1\]"),
        ({"energy": 1.1}, r"energy=1.1 must lie in \(0, 1\]"),
        ({"energy": float("nan")}, r"energy=nan must lie in"),
        ({"compression_ratio": 0.5}, "compression_ratio=0.5 must be at least 1"),
        ({"compression_ratio": float("nan")}, "compression_ratio=nan must be at least 1"),
        ({"rank": 2, "view": "row"}, r"view='row' must be one of \('channel', 'channels_last'"),
    ],
)
def test_bad_hyperparameters_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        TruncatedSVD(**options)


def test_the_view_is_the_one_asked_for():
    assert TruncatedSVD(rank=2).kernel_view() == "spatial"
    assert TruncatedSVD(rank=2, view="channel").kernel_view() == "channel"
