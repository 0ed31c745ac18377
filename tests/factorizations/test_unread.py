"""Factors that are multiplied out only where something is computed with their product."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.compress import compress
from lowrank.decomposers import Chain, HalfPrecision, LoRA, Quantization, TruncatedSVD
from lowrank.factorizations import Dense, Product
from lowrank.factorizations.unread import Unread
from lowrank.measure.macs import layer_macs

SHAPE = (9, 7)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def form() -> Product:
    return Product(Dense(random(9, 2)), Dense(random(2, 7)))


@pytest.fixture
def counted(monkeypatch):
    """A product, its matrix that is not read yet, and a list that grows when it is."""
    factors, times = form(), []
    unread = Unread.of(factors, lambda weight: weight, SHAPE)
    multiply = unread._multiply
    unread._multiply = lambda: times.append(1) or multiply()
    return factors, unread, times


def test_what_is_asked_without_numbers_costs_nothing(counted):
    _, unread, times = counted
    assert isinstance(unread, Tensor)
    assert (unread.dtype, unread.device) == (torch.float32, torch.device("cpu"))
    assert unread.shape == unread.size() == SHAPE
    assert (unread.ndim, unread.dim(), unread.numel(), unread.size(0)) == (2, 2, 63, 9)
    assert unread.layout == torch.strided and unread.is_floating_point()
    assert times == []


@pytest.mark.parametrize(
    "use",
    [
        lambda w: F.linear(torch.ones(3, 7), w),
        lambda w: torch.ones(3, 7) @ w.T,
        lambda w: w.sum(dim=0),
        lambda w: torch.stack([w, w]),
        lambda w: torch.zeros(SHAPE).copy_(w),
        lambda w: w[2],
        lambda w: w.detach(),
        lambda w: w.double(),
        lambda w: torch.as_tensor(w.tolist()),
        lambda w: torch.from_numpy(w.detach().numpy()),
        lambda w: pickle.loads(pickle.dumps(w.detach())),
        lambda w: copy.deepcopy(w.detach()),
    ],
)
def test_what_is_computed_is_computed_with_the_matrix(use):
    factors = form()
    found = use(Unread.of(factors, lambda weight: weight, SHAPE))
    assert type(found) is Tensor
    torch.testing.assert_close(found, use(factors.to_dense()))


def test_gradients_reach_the_factors(counted):
    factors, unread, _ = counted
    x = random(3, 7)
    F.linear(x, unread).square().sum().backward()
    lazily = [p.grad.clone() for p in factors.parameters()]
    factors.zero_grad()
    F.linear(x, factors.to_dense()).square().sum().backward()
    torch.testing.assert_close(lazily, [p.grad for p in factors.parameters()])
    assert unread.requires_grad


def test_it_is_the_matrix_of_the_moment_it_is_read(counted):
    factors, unread, _ = counted
    with torch.no_grad():
        factors.factors[0].weight.zero_()
    assert float(unread.detach().abs().max()) == 0


@pytest.mark.parametrize(
    "method",
    [
        TruncatedSVD(rank=2),
        LoRA(rank=2, alpha=4, base=Quantization(4)),
        Chain([TruncatedSVD(rank=2), HalfPrecision()]),
        Chain([TruncatedSVD(rank=2), Quantization(8)]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "layer", [nn.Linear(12, 10), nn.Conv2d(6, 8, (3, 2), groups=2), nn.Embedding(12, 10)]
)
def test_the_weight_of_a_layer_says_what_it_will_be(method, dtype, layer):
    model = compress(nn.Sequential(layer.float()), method).model.to(dtype)
    weight = model[0].weight
    read = weight.detach()
    assert type(read) is Tensor
    assert (weight.shape, weight.dtype, weight.device) == (read.shape, read.dtype, read.device)
    assert read.shape == layer.weight.shape and read.dtype == dtype


class Asking(nn.Module):
    """Asks its layer for the dtype of its weight at each call, as feed-forward layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.to(self.inner.weight.dtype))


def test_asking_for_a_dtype_is_no_multiplication():
    model = compress(Asking(), TruncatedSVD(rank=2)).model
    assert layer_macs(model, (torch.ones(1, 16),))[""] == 2 * (16 + 16)
