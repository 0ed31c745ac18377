"""CP against tensorly's own error, exact kernels, and the truncated SVD of its bytes."""

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sum as random
from tensorly.cp_tensor import CPTensor, cp_to_tensor
from tensorly.decomposition import parafac
from torch import Tensor, nn

from lowrank.approximation.comparison import svd_within
from lowrank.approximation.kernel_tensor import KernelTensor
from lowrank.compression.compress import compress
from lowrank.decomposers import CanonicalPolyadic
from lowrank.decomposers.canonical_polyadic import leading
from lowrank.factorizations import BlockDiagonal, ChannelProduct, Product
from lowrank.norms import IDENTITY, Diagonal, Full, Norm

OUT, CHANNELS, POSITIONS = 12, 8, 9
SIZE = (3, 3)


def of_rank(rank: int) -> Tensor:
    """A kernel of this rank as a matrix."""
    factors = random(OUT, rank), random(CHANNELS, rank), random(POSITIONS, rank)
    return torch.einsum("or,ir,pr->oip", *factors).flatten(1)


def moment() -> Tensor:
    x = random(200, CHANNELS * POSITIONS) @ random(CHANNELS * POSITIONS, 72, seed=1)
    return x.T @ x / len(x)


NORMS: dict[str, Norm] = {
    "identity": IDENTITY,
    "diagonal": Diagonal(moment().diagonal(), random(OUT).square()),
    "full": Full(moment(), damping=0.01),
    "full and rows": Full(moment(), random(OUT).square()),
    "singular": Full(random(20, 72).T @ random(20, 72)),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())


@given(rank=st.integers(2, 20), iterations=st.integers(1, 30), seed=st.integers(0, 9))
@settings(max_examples=20)
def test_the_error_is_at_most_that_of_tensorly(rank, iterations, seed):
    weight = random(OUT, CHANNELS * POSITIONS, seed=seed)
    tensor = weight.unflatten(1, (CHANNELS, POSITIONS))
    start = [leading(tensor.movedim(mode, 0).flatten(1), rank).numpy() for mode in range(3)]
    found = parafac(
        tensor.numpy(), rank, n_iter_max=iterations, init=CPTensor((None, start)), tol=1e-8
    )
    error = tensorly.norm(cp_to_tensor(found) - tensor.numpy())
    form = CanonicalPolyadic(rank, None, iterations, SIZE).decompose(weight)
    assert IDENTITY(weight - form.to_dense()) <= error * (1 + 1e-9)


@pytest.mark.parametrize("name", ["identity", "full", "full and rows", "diagonal"])
def test_a_kernel_of_this_rank_comes_back(name):
    norm, weight = NORMS[name], of_rank(2)
    form = CanonicalPolyadic(2, kernel_size=SIZE).decompose(weight, norm)
    assert isinstance(form, Product)
    assert norm(weight - form.to_dense()) < 1e-3 * norm(weight)


@every_norm
def test_more_iterations_in_the_norm_gain(norm):
    weight = random(OUT, CHANNELS * POSITIONS)
    errors = [
        norm.relative_error(
            weight, CanonicalPolyadic(9, None, n, SIZE).decompose(weight, norm).to_dense()
        )
        for n in (1, 60)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", ["full", "full and rows", "diagonal"])
def test_the_norm_is_what_is_minimised(name):
    norm, weight = NORMS[name], random(OUT, CHANNELS * POSITIONS)
    method = CanonicalPolyadic(9, kernel_size=SIZE)
    inside, outside = method.decompose(weight, norm), method.decompose(weight)
    assert norm.relative_error(weight, inside.to_dense()) < 0.97 * norm.relative_error(
        weight, outside.to_dense()
    )


def test_the_gradient_is_that_of_the_error():
    norm, weight = NORMS["full and rows"], random(OUT, CHANNELS * POSITIONS)
    left, right = random(OUT, 3), random(3, CHANNELS * POSITIONS).requires_grad_()
    kernel = KernelTensor.of(weight, norm, SIZE)
    missed = weight - left @ right
    half = ((missed @ kernel.moment) * missed).sum(dim=1) @ kernel.rows / 2
    half.backward()
    torch.testing.assert_close(kernel.slope(left)(right.detach()), right.grad)


@every_norm
@given(ratio=st.floats(1.1, 20), seed=st.integers(0, 20))
@settings(max_examples=10)
def test_it_is_never_worse_than_a_truncated_svd_of_its_bytes(norm, ratio, seed):
    weight = random(OUT, CHANNELS * POSITIONS, seed=seed)
    method = CanonicalPolyadic(compression_ratio=ratio, kernel_size=SIZE, iterations=2)
    form = method.decompose(weight, norm)
    assert form.params <= weight.numel() / ratio
    part = svd_within(weight, norm, 8 * form.params)
    if part is not None:
        part_error = norm(weight - part.to_dense())
        assert norm(weight - form.to_dense()) <= part_error * (1 + 1e-9)


def test_a_part_that_is_nearer_is_returned_with_a_note():
    weight = random(OUT, 2) @ random(2, CHANNELS * POSITIONS)
    form = CanonicalPolyadic(6, kernel_size=SIZE, iterations=3).decompose(weight)
    assert "instead of a hybrid" in " ".join(form.notes)
    torch.testing.assert_close(form.to_dense(), weight)


class TestInModels:
    def test_a_model_runs_its_kernels_channel_by_channel(self):
        layer, x = nn.Conv2d(8, 12, 3, padding=1, stride=2), torch.randn(2, 8, 9, 9)
        with torch.no_grad():
            layer.weight.copy_(of_rank(3).view(12, 8, 3, 3))
        result = compress(nn.Sequential(layer), CanonicalPolyadic(3), example=(x[:1],))
        form = result.model[0].factorization
        assert isinstance(form.factors[1], ChannelProduct)
        assert isinstance(form.factors[1].core, BlockDiagonal)
        torch.testing.assert_close(result.model(x), layer(x), rtol=1e-2, atol=1e-2)
        assert result.layers[0].params == 3 * (12 + 8 + 9)
        assert result.layers[0].macs == 81 * 8 * 3 + 25 * (3 * 9 + 3 * 12)

    def test_a_linear_layer_gets_a_truncated_svd(self):
        result = compress(nn.Sequential(nn.Linear(20, 30)), CanonicalPolyadic(4))
        assert result.layers[0].notes == ("no kernel: a truncated SVD",)
        assert result.layers[0].factorization == "LowRank 20→4→30"


class TestBadInput:
    def test_rank_and_ratio(self):
        with pytest.raises(ValueError, match="exactly one of rank and compression_ratio"):
            CanonicalPolyadic()

    def test_a_rank_of_zero(self):
        with pytest.raises(ValueError, match="rank=0 must be at least 1"):
            CanonicalPolyadic(0)

    def test_a_ratio_that_is_out_of_reach(self):
        with pytest.raises(ValueError, match="rank 1 gives 29.8"):
            CanonicalPolyadic(compression_ratio=100, kernel_size=SIZE).decompose(of_rank(2))
