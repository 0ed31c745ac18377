"""Weights that are decomposed at the same time: the same result, errors and limits of memory."""

import threading
import time
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from lowrank.allocation import KeptEnergy
from lowrank.calibration import CalibratedNorms
from lowrank.compression.compress import compress
from lowrank.compression.crew import AHEAD, Crew
from lowrank.decomposers import GPTQ, RandomPruning, SparseGPT, TruncatedSVD
from lowrank.decomposers.decomposer import Unfit
from lowrank.numerics.memo import Memo, memoised


class TwoLayers(nn.Module):
    """A block of two layers on the same inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x):
        return self.first(x).tanh() + self.second(x)


def three_blocks() -> nn.Sequential:
    """And a layer of another shape."""
    return nn.Sequential(*(TwoLayers() for _ in range(3)), nn.Linear(12, 5))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return three_blocks().eval()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


DATA = [torch.randn(16, 12, generator=torch.manual_seed(1)) for _ in range(2)]
METHODS = {
    "svd": (TruncatedSVD(rank=3), "identity", None),
    "nearest level": (TruncatedSVD(rank=9), "identity", None),
    "random": (RandomPruning(sparsity=0.5, seed=3), "identity", None),
    "one shot": (GPTQ(bits=3), "full", DATA),
    "sequential": (GPTQ(bits=3), CalibratedNorms("full", mode="sequential"), DATA),
    "sparse": (SparseGPT(sparsity=0.5), "full", DATA),
    "allocation": (KeptEnergy(2.0), "identity", None),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_result_is_the_same_to_the_bit(model, name):
    method, norm, data = METHODS[name]
    one, three = (compress(model, method, norm=norm, data=data, workers=n) for n in (1, 3))
    tensors, others = one.model.state_dict(), three.model.state_dict()
    assert list(tensors) == list(others)
    assert all(torch.equal(tensors[key], others[key]) for key in tensors)
    assert one.layers == three.layers and one.left == three.left


@dataclass(frozen=True)
class Meeting(TruncatedSVD):
    """Waits until another weight is decomposed at the same time."""

    def _decompose(self, weight, norm):
        BARRIER.wait(timeout=30)
        return super()._decompose(weight, norm)


BARRIER = threading.Barrier(2)


def test_two_weights_are_decomposed_at_the_same_time(model):
    assert len(compress(model, Meeting(rank=2), where="[0-2].*", workers=2).layers) == 6


@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_thread_computes_as_the_caller_does(is_enabled):
    torch.set_num_threads(5)
    seen: list[tuple[bool, int]] = []
    with torch.set_grad_enabled(is_enabled), Crew(2, lambda _, r: seen.append(r())) as crew:
        crew.begin(0, lambda: (torch.is_grad_enabled(), torch.get_num_threads()))
        crew.settle()
    assert seen == [(is_enabled, 2)] and torch.get_num_threads() == 5
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Refusing(TruncatedSVD):
    """Refuses two of the weights, the later one first."""

    error: type[Exception] = ValueError

    def _decompose(self, weight, norm):
        if len(weight) == 5:
            raise self.error("too narrow")
        if REFUSED is not None and torch.equal(weight, REFUSED):
            time.sleep(0.05)
            raise self.error("too early")
        return super()._decompose(weight, norm)


REFUSED: torch.Tensor | None = None


def test_a_weight_that_cannot_be_compressed_stays_as_it_is_in_the_order_of_the_model(
    model, monkeypatch
):
    monkeypatch.setattr(f"{__name__}.REFUSED", model[2].first.weight.detach())
    one, two = (compress(model, Refusing(rank=2), workers=n) for n in (1, 2))
    assert two.left == one.left
    assert [name for name, _ in two.left] == ["2.first", "3"]
    assert two.left[1][1] == "layer '3': too narrow"


@pytest.mark.parametrize("error", [ArithmeticError, MemoryError])
def test_an_error_that_nobody_expected_ends_the_compression(model, error):
    before = threading.active_count()
    with pytest.raises(error, match="too narrow"):
        compress(model, Refusing(rank=2, error=error), workers=2)
    assert threading.active_count() == before


def test_a_weight_that_must_be_compressed_ends_it_with_its_name(model):
    with pytest.raises(ValueError, match="layer '3': too narrow"):
        compress(model, Refusing(rank=2), strict=True, workers=2)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, None])
def test_a_number_of_workers_for_weights_that_cannot_be(model, workers):
    with pytest.raises(ValueError, match="workers"):
        compress(model, TruncatedSVD(rank=2), workers=workers)


def test_few_things_are_begun_ahead():
    done: list[int] = []
    release = threading.Event()

    def finish(thing, result):
        done.append(result())

    with Crew(2, finish) as crew:
        for number in range(2 * AHEAD):
            crew.begin(number, lambda number=number: (release.wait(30), number)[1])
        assert not done  # And one more would wait for the first.
        release.set()
        crew.begin(9, lambda: 9)
        assert done[:1] == [0]
        crew.settle()
    assert done == [0, 1, 2, 3, 9]


def test_threads_share_the_kernels_and_a_passing_forgets_those_of_its_own(monkeypatch):
    own = Memo()
    monkeypatch.setattr("lowrank.numerics.memo.MEMO", own)
    doubled = memoised(double)
    tensors = [torch.full((4,), float(number)) for number in range(40)]
    with Crew(4, lambda thing, result: result()) as crew:
        with own.passing():
            for tensor in tensors[:20]:
                crew.begin(tensor, lambda tensor=tensor: doubled(tensor))
            crew.settle()
            assert len(own._store) == 20
        assert not own._store and not own._bytes
        for tensor in tensors * 2:
            crew.begin(tensor, lambda tensor=tensor: doubled(tensor))
        crew.settle()
    assert len(own._store) == 40 and own._bytes == 40 * 16
    assert own.hits + own.misses == 100


def double(tensor):
    return 2 * tensor


def test_unfit_found_in_a_thread_takes_the_nearest_level(model):
    result = compress(model, Late(rank=4), workers=2)
    assert [len(layer.notes) for layer in result.layers] == [0, 0, 0, 0, 0, 0, 1]


@dataclass(frozen=True)
class Late(TruncatedSVD):
    """Finds out late that it does not fit."""

    def _decompose(self, weight, norm):
        if len(weight) == 5 and self.rank > 2:
            raise Unfit("only two", Late(rank=2))
        return super()._decompose(weight, norm)
