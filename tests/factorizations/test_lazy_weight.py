"""The weight of a compressed layer: made only where it is computed with, and read-only."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_tensors import single_by_sum as random
from torch import Tensor, nn

from lowrank.compression.compress import compress
from lowrank.decomposers import Chain, HalfPrecision, LoRA, Quantization, TruncatedSVD, Uncompressed
from lowrank.factorizations import Dense, Product
from lowrank.factorizations.lazy_weight import LazyWeight
from lowrank.measure.macs import layer_macs

SHAPE = (9, 7)


def form() -> Product:
    return Product(Dense(random(9, 2)), Dense(random(2, 7)))


@pytest.fixture
def counted(monkeypatch):
    """A product, its matrix that is not read yet, and a list that grows when it is."""
    factors, times = form(), []
    multiply = factors.to_dense
    monkeypatch.setattr(factors, "to_dense", lambda: times.append(1) or multiply())
    return factors, LazyWeight.of(factors, lambda weight: weight, SHAPE), times


def test_what_is_asked_without_numbers_costs_nothing(counted):
    _, lazy, times = counted
    assert isinstance(lazy, Tensor)
    assert (lazy.dtype, lazy.device) == (torch.float32, torch.device("cpu"))
    assert lazy.shape == lazy.size() == SHAPE
    assert (lazy.ndim, lazy.dim(), lazy.numel(), lazy.size(0)) == (2, 2, 63, 9)
    assert lazy.layout == torch.strided and lazy.is_floating_point()
    assert times == []


COMPUTED = [
    lambda w: F.linear(torch.ones(3, 7), w),
    lambda w: torch.ones(3, 7) @ w.T,
    lambda w: w.sum(dim=0),
    lambda w: torch.stack([w, w]),
    lambda w: torch.zeros(SHAPE).copy_(w),
    lambda w: w[[2, 3]],
    lambda w: w.clone(),
    lambda w: w.double(),
    lambda w: torch.stack([2 * row for row in w]),
    lambda w: torch.as_tensor(w.tolist()),
    lambda w: torch.from_numpy(2 * w.detach().numpy()),
    lambda w: pickle.loads(pickle.dumps(w.detach())),
    lambda w: copy.deepcopy(w.detach()),
    lambda w: torch.vmap(lambda x: w @ x)(torch.ones(3, 7)),
    lambda w: w.detach().to_sparse().to_dense(),
]


@pytest.mark.parametrize("use", COMPUTED)
def test_what_is_computed_is_computed_with_the_matrix(use):
    factors = form()
    found = use(LazyWeight.of(factors, lambda weight: weight, SHAPE))
    assert type(found) is Tensor
    torch.testing.assert_close(found, use(factors.to_dense()))


SHARED = {
    "itself": lambda w: w.contiguous(),
    "dtype": lambda w: w.to(torch.float32),
    "detached": lambda w: w.detach(),
    "data": lambda w: w.data,
    "transposed": lambda w: w.T,
    "row": lambda w: w[2],
    "rows": lambda w: w[2:5],
    "reshaped": lambda w: w.view(-1),
    "chunk": lambda w: w.detach().chunk(2)[1],
    "unbound": lambda w: list(w.detach())[3],
    "expanded": lambda w: w.expand(2, *SHAPE)[1],
    "view of a view": lambda w: w.T[1:].data[:, 2],
}


@pytest.mark.parametrize("share", SHARED.values(), ids=SHARED.keys())
@pytest.mark.parametrize("inference", [False, True], ids=["", "inference mode"])
def test_what_shares_its_memory_can_be_read_and_not_be_written(share, inference):
    factors = form()
    expected = share(factors.to_dense()).detach().clone()
    with torch.inference_mode(inference):
        shared = share(LazyWeight.of(factors, lambda weight: weight, SHAPE))
        assert isinstance(shared, LazyWeight)
        assert torch.equal(shared.detach() + 0, expected) and shared.shape == expected.shape
        with torch.no_grad(), pytest.raises(ValueError, match="a write into it would be lost"):
            shared.mul_(2)
    torch.testing.assert_close(share(factors.to_dense()), expected)


def test_an_array_that_shares_its_memory_is_read_only():
    lazy = LazyWeight.of(form(), lambda weight: weight, SHAPE).detach()
    for array in (lazy.numpy(), np.asarray(lazy), lazy.T.numpy()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    lazy.numpy().copy()[0] = 1  # A copy is one's own.
    with pytest.raises(ValueError, match="a write into it would be lost"):
        np.from_dlpack(lazy)


@pytest.mark.parametrize("function_off", [False, True])
@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.mul_(2),
        lambda w: torch.add(w, 1, out=w),
        lambda w: torch._foreach_mul_([torch.ones(2), w], 2),
        lambda w: w.set_(torch.ones(2)),
        lambda w: w.resize_(2, 2),
        lambda w: w.t_(),
    ],
)
def test_a_write_is_refused_where_functions_of_subclasses_are_turned_off_too(write, function_off):
    lazy = LazyWeight.of(form(), lambda weight: weight, SHAPE)
    off = torch._C.DisableTorchFunctionSubclass if function_off else contextlib.nullcontext
    with torch.no_grad(), off(), pytest.raises(ValueError, match="would be lost"):
        write(lazy)


@pytest.mark.parametrize("ask", [Tensor.untyped_storage, Tensor.storage])
@pytest.mark.parametrize("method", [TruncatedSVD(rank=2), Quantization(4)])
def test_its_memory_is_not_handed_out(ask, method):
    model = compress(nn.Linear(7, 9), method).model
    with pytest.raises(ValueError, match="would be lost"):
        ask(model.weight)
    for weight in (copy.deepcopy(model).weight, pickle.loads(pickle.dumps(model)).weight):
        assert torch.equal(weight + 0, model.weight + 0)


def test_its_numbers_cannot_be_swapped_for_others():
    model, other = compress(nn.Linear(7, 9), TruncatedSVD(rank=2)).model, torch.zeros(9, 7)
    for pair in ((model.weight, other), (other, model.weight)):
        with pytest.raises(ValueError, match="would be lost"):
            torch.utils.swap_tensors(*pair)
    assert type(other) is Tensor and not other.any()


def test_a_write_that_ends_in_another_error_is_not_kept():
    leaf = compress(nn.Linear(7, 9), Quantization(4)).model.eval()
    before = leaf(torch.eye(7))

    class Stops(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            args[0].mul_(2)
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        leaf.weight.add(torch.ones(9, 7).as_subclass(Stops))
    assert torch.equal(leaf(torch.eye(7)), before)


def test_no_other_tensor_comes_to_share_its_memory():
    leaf = compress(nn.Linear(7, 9), Quantization(4)).model.eval()
    other, before = torch.zeros(9, 7), leaf(torch.eye(7))
    with pytest.raises(RuntimeError, match="incompatible tensor type"):
        other.data = leaf.weight
    other.set_(leaf.weight)
    assert torch.equal(other, leaf.weight + 0)
    other.mul_(2)
    assert torch.equal(leaf(torch.eye(7)), before)


def test_the_error_says_what_to_do():
    model = compress(nn.Linear(7, 9), TruncatedSVD(rank=2)).model
    with pytest.raises(ValueError) as caught:
        model.weight.data += 1
    text = str(caught.value)
    for part in ("LowRank 7→2→9", "layer.factorization", "weight.clone()", "before compressing"):
        assert part in text


def test_a_dense_kernel_is_written_where_it_is_stored():
    """It is a view of the parameter, so that only an assignment would be lost."""
    model = compress(nn.Conv2d(2, 3, 2, bias=False), Uncompressed()).model
    x, before = torch.ones(1, 2, 4, 4), model.weight.detach().clone()
    with torch.no_grad():
        model.weight.mul_(2)
        model.weight.data[0] += 1
    before[0] += 0.5
    torch.testing.assert_close(model(x), F.conv2d(x, 2 * before))
    with pytest.raises(ValueError, match="would be lost"):
        model.weight.data = torch.zeros(3, 2, 2, 2)


@pytest.mark.parametrize("value", [torch.zeros(9, 7), nn.Parameter(torch.zeros(9, 7)), None])
def test_another_weight_cannot_be_put_in_its_place(value):
    for method in (Uncompressed(), TruncatedSVD(rank=2), Quantization(4)):
        model = compress(nn.Linear(7, 9), method).model
        with pytest.raises(ValueError, match="would be lost"):
            model.weight = value
        with pytest.raises(ValueError, match="would be lost"):
            model.register_parameter("weight", nn.Parameter(torch.zeros(9, 7)))
    attention = compress(nn.MultiheadAttention(8, 2), TruncatedSVD(rank=2)).model
    with pytest.raises(ValueError, match="would be lost"):
        attention.in_proj_weight = value


def test_gradients_reach_the_factors(counted):
    factors, lazy, _ = counted
    x = random(3, 7)
    F.linear(x, lazy).square().sum().backward()
    lazily = [p.grad.clone() for p in factors.parameters()]
    factors.zero_grad()
    F.linear(x, factors.to_dense()).square().sum().backward()
    torch.testing.assert_close(lazily, [p.grad for p in factors.parameters()])
    assert lazy.requires_grad


def test_it_is_the_matrix_of_the_moment_it_is_read(counted):
    factors, lazy, _ = counted
    with torch.no_grad():
        factors.factors[0].weight.zero_()
    assert float(lazy.detach().abs().max()) == 0


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
    read = weight.clone()
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
