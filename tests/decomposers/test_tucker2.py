"""Tucker-2 against tensorly's own error, against the truncated SVD, and against its gradient."""

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sum as random
from tensorly.decomposition import partial_tucker
from torch import Tensor, nn

from lowrank.approximation.comparison import svd_within
from lowrank.approximation.kernel_tensor import KernelTensor
from lowrank.compression.compress import compress
from lowrank.decomposers import LoRA, Tucker2
from lowrank.decomposers.tucker2 import kept_energy
from lowrank.factorizations import ChannelProduct, Dense, Product
from lowrank.norms import IDENTITY, Diagonal, Full, Norm

OUT, CHANNELS, POSITIONS = 12, 8, 9
SIZE = (3, 3)


def of_ranks(given: int, taken: int, noise: float = 0.0) -> Tensor:
    """A kernel of these multilinear ranks, and noise, as a matrix."""
    core = random(given, taken, POSITIONS)
    kernel = torch.einsum("gtp,og,it->oip", core, random(OUT, given), random(CHANNELS, taken))
    return (kernel + noise * random(OUT, CHANNELS, POSITIONS)).flatten(1)


def moment(seed: int = 0) -> Tensor:
    x = random(200, CHANNELS * POSITIONS, seed=seed) @ random(CHANNELS * POSITIONS, 72, seed=1)
    return x.T @ x / len(x)


NORMS: dict[str, Norm] = {
    "identity": IDENTITY,
    "diagonal": Diagonal(moment().diagonal(), random(OUT).square()),
    "full": Full(moment(), damping=0.01),
    "full and rows": Full(moment(), random(OUT).square()),
    "singular": Full(random(20, 72).T @ random(20, 72)),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 5))
@settings(max_examples=20)
def test_the_error_is_at_most_that_of_tensorly(given_ranks, taken, seed):
    weight = random(OUT, CHANNELS * POSITIONS, seed=seed)
    tensor = weight.unflatten(1, (CHANNELS, POSITIONS)).numpy()
    (core, factors), _ = partial_tucker(tensor, [given_ranks, taken], modes=[0, 1], tol=1e-8)
    wanted = tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1]) - tensor
    form = Tucker2((given_ranks, taken), kernel_size=SIZE).decompose(weight)
    error = IDENTITY(weight - form.to_dense())
    # Not equal: the last half step is the optimum, and one that stops early is a little off.
    assert error <= tensorly.norm(wanted) * (1 + 1e-9)


@every_norm
def test_a_kernel_of_these_ranks_comes_back(norm):
    weight = of_ranks(3, 2)
    form = Tucker2((3, 2), kernel_size=SIZE).decompose(weight, norm)
    assert isinstance(form, Product)
    assert norm(weight - form.to_dense()) < 1e-6 * norm(weight)


@every_norm
def test_more_iterations_are_never_worse(norm):
    weight = of_ranks(5, 4, noise=1.0)
    errors = [
        norm.relative_error(
            weight, Tucker2((4, 3), None, n, SIZE).decompose(weight, norm).to_dense()
        )
        for n in (0, 1, 5, 20)
    ]
    assert errors == sorted(errors, reverse=True) or errors[0] <= errors[-1] * (1 + 1e-9)


@pytest.mark.parametrize("name", ["full", "full and rows", "diagonal"])
def test_the_norm_is_what_is_minimised(name):
    norm, weight = NORMS[name], random(OUT, CHANNELS * POSITIONS)
    method = Tucker2((5, 4), kernel_size=SIZE, iterations=20)
    inside, outside = method.decompose(weight, norm), method.decompose(weight)
    assert norm.relative_error(weight, inside.to_dense()) < 0.97 * norm.relative_error(
        weight, outside.to_dense()
    )


@every_norm
@given(ratio=st.floats(1.1, 8), seed=st.integers(0, 20))
@settings(max_examples=10)
def test_it_is_never_worse_than_a_truncated_svd_of_its_bytes(norm, ratio, seed):
    weight = random(OUT, CHANNELS * POSITIONS, seed=seed)
    form = Tucker2(compression_ratio=ratio, kernel_size=SIZE, iterations=2).decompose(weight, norm)
    assert form.params <= weight.numel() / ratio
    part = svd_within(weight, norm, 8 * form.params)
    if part is not None:
        part_error = norm(weight - part.to_dense())
        assert norm(weight - form.to_dense()) <= part_error * (1 + 1e-9)


def test_a_part_that_is_nearer_is_returned_with_a_note():
    weight = random(OUT, 2) @ random(2, CHANNELS * POSITIONS)
    form = Tucker2(compression_ratio=4, kernel_size=SIZE).decompose(weight)
    assert "instead of a hybrid" in " ".join(form.notes)
    torch.testing.assert_close(form.to_dense(), weight)


def test_the_energies_are_those_of_the_higher_order_svd():
    tensor = random(OUT, CHANNELS, POSITIONS)
    (core, factors), _ = partial_tucker(tensor.numpy(), [5, 3], modes=[0, 1], n_iter_max=1)
    left = torch.linalg.svd(tensor.flatten(1))[0][:, :5]
    right = torch.linalg.svd(tensor.transpose(0, 1).flatten(1))[0][:, :3]
    core = torch.einsum("oip,or,is->rsp", tensor, left, right)
    torch.testing.assert_close(kept_energy(tensor)[4, 2], core.square().sum())


def test_the_core_behind_a_mixing_is_the_optimum():
    """No other left and core of that rank are nearer: gradient steps from it gain nothing."""
    norm = NORMS["full and rows"]
    weight, mixing = random(OUT, CHANNELS * POSITIONS), random(3, CHANNELS)
    kernel = KernelTensor.of(weight, norm, SIZE)
    left, core = kernel.fit(mixing, 4)
    right = kernel.spread(mixing)
    least = norm(weight - left @ core @ right)
    for seed in range(50):
        change = 1e-3 * random(OUT, 4, seed=seed), 1e-3 * random(*core.shape, seed=seed)
        assert norm(weight - (left + change[0]) @ (core + change[1]) @ right) >= least


class TestInModels:
    def model(self, groups: int = 1) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(8, 12, 3, padding=1, stride=2, groups=groups), nn.Conv2d(12, 8, (1, 3))
        )

    @pytest.mark.parametrize("groups", [1, 2])
    def test_a_model_runs_its_kernels_as_three_convolutions(self, groups):
        model, x = self.model(groups), torch.randn(2, 8, 9, 9)
        method = Tucker2((2, 2))
        result = compress(model, method, example=(x[:1],))
        form = result.model[0].factorization
        if isinstance(form, Product) and isinstance(form.factors[1], ChannelProduct):
            assert form.factors[1].positions == 9
        for layer in result.model:
            dense = nn.functional.conv2d(
                torch.ones(1, layer.in_channels, 9, 9),
                layer.weight,
                layer.bias,
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
            )
            torch.testing.assert_close(layer(torch.ones(1, layer.in_channels, 9, 9)), dense)
        assert all(report.macs <= report.dense_macs for report in result.layers)

    def test_macs_are_those_of_the_small_convolutions(self):
        layer = nn.Conv2d(8, 12, 3, padding=1)
        torch.manual_seed(0)
        with torch.no_grad():
            layer.weight.copy_(of_ranks(3, 2).view(12, 8, 3, 3))
        result = compress(nn.Sequential(layer), Tucker2((3, 2)), example=(torch.ones(1, 8, 5, 5),))
        assert result.layers[0].macs == 25 * (8 * 2 + 2 * 3 * 9 + 3 * 12)

    def test_a_method_inside_another_learns_the_kernel(self):
        layer = nn.Conv2d(8, 12, 3)
        with torch.no_grad():
            layer.weight.copy_(of_ranks(3, 2).view(12, 8, 3, 3))
        result = compress(nn.Sequential(layer), LoRA(1, 1, base=Tucker2((3, 2))))
        assert "Channels 8→2→3" in result.layers[0].factorization

    def test_a_linear_layer_gets_a_truncated_svd(self):
        result = compress(nn.Sequential(nn.Linear(20, 30)), Tucker2(compression_ratio=2))
        assert result.layers[0].notes == ("no kernel: a truncated SVD",)
        assert result.layers[0].factorization == "LowRank 20→6→30"


class TestBadInput:
    def test_ranks_and_ratio(self):
        with pytest.raises(ValueError, match="exactly one of ranks and compression_ratio"):
            Tucker2()
        with pytest.raises(ValueError, match="exactly one of ranks and compression_ratio"):
            Tucker2((2, 2), 3)

    @pytest.mark.parametrize("ranks", [3, (1,), (0, 2), (1.5, 2)])
    def test_ranks_that_are_no_pair(self, ranks):
        with pytest.raises(ValueError, match="ranks=.* must be"):
            Tucker2(ranks)

    @pytest.mark.parametrize("ranks", [(13, 2), (2, 9), (12, 1)])
    def test_ranks_that_do_not_fit(self, ranks):
        with pytest.raises(ValueError, match="do not fit a kernel of 12 x 8 channels and 9 pos"):
            Tucker2(ranks, kernel_size=SIZE).decompose(of_ranks(2, 2))

    def test_a_ratio_that_is_out_of_reach(self):
        with pytest.raises(ValueError, match="one channel each gives 29.8"):
            Tucker2(compression_ratio=100, kernel_size=SIZE).decompose(of_ranks(2, 2))

    def test_a_matrix_that_is_not_of_such_kernels(self):
        with pytest.raises(ValueError, match="the 70 columns .* kernels of 3 x 3"):
            Tucker2((1, 1), kernel_size=SIZE).decompose(random(12, 70))


def test_what_is_stored_is_three_dense_factors():
    form = Tucker2((3, 2), kernel_size=SIZE).decompose(of_ranks(3, 2))
    left, mixed = form.factors
    assert isinstance(left, Dense) and isinstance(mixed, ChannelProduct)
    assert left.shape == (12, 3) and mixed.core.shape == (3, 18) and mixed.mixing.shape == (2, 8)
