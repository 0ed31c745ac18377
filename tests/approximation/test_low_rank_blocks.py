"""Monarch and block low rank: closed forms, optimal ranks, fits in the norm."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sum as random
from made_tensors import tensor_bytes
from torch import Tensor, nn

from lowrank.approximation.comparison import svd_within
from lowrank.approximation.low_rank_blocks import BlockedWeight, fit, joined, within
from lowrank.compression.compress import compress
from lowrank.decomposers import BlockLowRank, Monarch, TruncatedSVD
from lowrank.factorizations import PermutedProduct
from lowrank.norms import IDENTITY, Diagonal, Full, Norm

OUT, INNER = 12, 18


def moment() -> Tensor:
    x = random(200, INNER) @ random(INNER, INNER, seed=1)
    return x.T @ x / len(x)


def some_rows() -> Tensor:
    rows = random(OUT).square()
    rows[3] = 0
    return rows


NORMS: dict[str, Norm] = {
    "identity": IDENTITY,
    "diagonal": Diagonal(moment().diagonal(), some_rows()),
    "full": Full(moment(), damping=0.01),
    "full and rows": Full(moment(), some_rows()),
    "singular": Full(random(9, INNER).T @ random(9, INNER)),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())


def error(weight: Tensor, method: Monarch | BlockLowRank, norm: Norm = IDENTITY) -> float:
    return norm.relative_error(weight, method.decompose(weight, norm).to_dense())


def matrix(grid: BlockedWeight, ranks: Tensor, iterations: int = 0) -> Tensor:
    return torch.cat([joined(column) for column in fit(grid, ranks, iterations)], dim=1)


@given(st.sampled_from([1, 2, 3, 4, 6]), st.sampled_from([1, 2, 3, 6, 9]), st.integers(0, 9))
@settings(max_examples=30)
def test_the_closed_form_is_the_svd_of_each_block(down, across, seed):
    weight = random(OUT, INNER, seed=seed)
    grid = BlockedWeight.of(weight, IDENTITY, (down, across))
    found = matrix(grid, torch.ones(down, across, dtype=torch.int64))
    for rows in range(0, OUT, OUT // down):
        for columns in range(0, INNER, INNER // across):
            at = slice(rows, rows + OUT // down), slice(columns, columns + INNER // across)
            u, s, vh = torch.linalg.svd(weight[at])
            torch.testing.assert_close(found[at], s[0] * u[:, :1] @ vh[:1])


def test_a_monarch_matrix_comes_back():
    """A Hadamard matrix, whose rows are taken with a stride, is one; its spectrum is flat."""
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        hadamard = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double(), hadamard)
    # Divided, because a matrix of ±1 is stored in 16 bits, and then no factors are smaller.
    weight = hadamard.view(4, 4, 16).transpose(0, 1).reshape(16, 16) / 3
    form = Monarch((4, 4)).decompose(weight)
    assert form.params == 2 * 16 * 4 < weight.numel()
    torch.testing.assert_close(form.to_dense(), weight)
    assert IDENTITY.relative_error(weight, TruncatedSVD(4).decompose(weight).to_dense()) > 0.8


@every_norm
@pytest.mark.parametrize("ratio", [1.2, 2, 3.5])
def test_one_block_is_the_truncated_svd(norm, ratio):
    weight = random(OUT, INNER)
    form = BlockLowRank(ratio, (1, 1)).decompose(weight, norm)
    rank = form.params // (OUT + INNER)
    wanted = TruncatedSVD(rank).decompose(weight, norm).to_dense()
    assert norm(weight - form.to_dense()) == pytest.approx(norm(weight - wanted))


@pytest.mark.parametrize("norm", [IDENTITY, NORMS["diagonal"]], ids=["identity", "diagonal"])
def test_no_other_ranks_of_that_size_lose_less(norm):
    weight = random(OUT, INNER)
    grid = BlockedWeight.of(weight, norm, (2, 3))
    ranks = within(grid, 12 * 8)
    assert int(ranks.sum()) == 8
    least = norm(weight - matrix(grid, ranks))
    for other in product(range(5), repeat=6):
        if sum(other) == 8:
            assert norm(weight - matrix(grid, torch.tensor(other).view(2, 3))) >= least - 1e-9


@every_norm
def test_the_first_pass_is_the_optimum_or_the_next_ones_gain(norm):
    weight, ranks = random(OUT, INNER), torch.tensor([[1, 2, 0], [2, 1, 3]])
    grid = BlockedWeight.of(weight, norm, (2, 3))
    errors = [norm(weight - matrix(grid, ranks, n)) for n in (1, 2, 5, 40)]
    assert all(b <= a * (1 + 1e-6) for a, b in zip(errors, errors[1:], strict=False))
    first = norm(weight - matrix(grid, ranks, 0))
    assert (errors[0] == first) == (norm.word in ("identity", "diagonal"))


def test_at_the_end_no_small_change_of_the_factors_is_nearer():
    norm, weight = NORMS["full"], random(OUT, INNER)
    ranks = torch.tensor([[1, 2, 1], [2, 1, 3]])
    grid = BlockedWeight.of(weight, norm, (2, 3))
    columns = fit(grid, ranks, 2000)
    tensors = [t.requires_grad_() for column in columns for pair in column for t in pair]
    missed = weight - torch.cat([joined(column) for column in columns], dim=1)
    square = ((missed @ norm.second_moment(weight)) * missed).sum()
    slopes = torch.autograd.grad(square, tensors)
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-4 * float(square.detach())


@every_norm
@given(ratio=st.floats(1.1, 4), seed=st.integers(0, 20))
@settings(max_examples=10)
def test_neither_is_worse_than_a_truncated_svd_of_its_bytes(norm, ratio, seed):
    weight = random(OUT, INNER, seed=seed)
    for method in (
        Monarch(compression_ratio=ratio, iterations=2),
        BlockLowRank(ratio, (2, 2), iterations=2),
    ):
        form = method.decompose(weight, norm)
        size = tensor_bytes(form)
        assert size <= weight.nbytes / ratio
        part = svd_within(weight, norm, size)
        if part is not None:
            assert norm(weight - form.to_dense()) <= norm(weight - part.to_dense()) * (1 + 1e-9)


def test_finer_grids_that_fit_are_chosen():
    weight = torch.kron(random(4, 6), torch.ones(3, 3, dtype=torch.float64))
    form = Monarch(compression_ratio=1.5).decompose(weight)
    assert isinstance(form, PermutedProduct)
    down, across = form.grid
    assert 12 * across + 18 * down <= 216 / 1.5


def test_blocks_of_unequal_size_at_the_edge():
    weight = random(10, 7)
    grid = BlockedWeight.of(weight, IDENTITY, (3, 2))
    assert (grid.height, grid.width) == (4, 4)
    ranks = torch.tensor([[4, 3], [4, 3], [2, 2]])
    torch.testing.assert_close(matrix(grid, ranks), weight)


@pytest.mark.parametrize("method", [Monarch((4, 4)), BlockLowRank(2, (2, 4))])
def test_a_model_runs_the_blocks_of_its_kernels(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, stride=2), nn.Flatten(1, 2))
    weight = model[0].weight.view(12, 2, 36)  # Kernels whose blocks are of rank 1.
    with torch.no_grad():
        weight.copy_(torch.randn(4, 1, 2, 1).expand(4, 3, 2, 36).reshape(12, 2, 36))
    x = torch.randn(2, 8, 9, 9)
    result = compress(model, method, example=(x[:1],))
    torch.testing.assert_close(result.model(x), model(x), rtol=1e-3, atol=1e-3)
    assert result.layers[0].macs < result.layers[0].dense_macs


class TestBadInput:
    def test_blocks_that_are_no_divisors(self):
        with pytest.raises(ValueError, match=r"blocks=\(5, 2\) do not fit .*\[1, 2, 3, 4, 6, 12\]"):
            Monarch((5, 2)).decompose(random(OUT, INNER))

    def test_blocks_too_small_for_the_rank(self):
        with pytest.raises(ValueError, match="at least rank=4 rows and columns"):
            Monarch((6, 2), rank=4).decompose(random(OUT, INNER))

    def test_a_monarch_ratio_that_is_out_of_reach(self):
        with pytest.raises(ValueError, match="one block of rank 2 gives 3.59"):
            Monarch(compression_ratio=4, rank=2).decompose(random(OUT, INNER))

    def test_blocks_and_ratio(self):
        with pytest.raises(ValueError, match="exactly one of blocks and compression_ratio"):
            Monarch()

    def test_more_blocks_than_can_be_cut(self):
        with pytest.raises(ValueError, match="12 rows cannot be cut into 7 blocks of 2.*make 6"):
            BlockLowRank(2, (7, 2)).decompose(random(OUT, INNER))

    def test_a_ratio_that_is_out_of_reach(self):
        with pytest.raises(ValueError, match="less than one singular value for each row"):
            BlockLowRank(6, (3, 3)).decompose(random(OUT, INNER))

    def test_a_ratio_that_enlarges(self):
        with pytest.raises(ValueError, match="compression_ratio=0.5 must"):
            BlockLowRank(0.5)
