"""Expensive kernels are paid once, by content."""

import copy
from types import MethodType

import pytest
import torch
from made_tensors import random, single
from torch import Tensor, nn

from lowrank.allocation import Budget, MixedAllocation, NormError, budgeted
from lowrank.calibration import CalibratedNorms
from lowrank.calibration import calibrated_norms as norms
from lowrank.compression.compress import compress
from lowrank.decomposers import GPTQ, TruncatedSVD
from lowrank.model.select import Select
from lowrank.numerics import memo
from lowrank.numerics.memo import Memo


@pytest.fixture(autouse=True)
def empty_memo(monkeypatch) -> Memo:
    """A memo of this test's own."""
    own = Memo()
    monkeypatch.setattr(memo, "MEMO", own)
    return own


@memo.memoised
def scaled(matrix: Tensor, *others: Tensor, factor: float = 1.0) -> Tensor:
    return sum(others, start=matrix * factor)


def test_the_second_call_is_a_hit_and_the_same_object(empty_memo):
    first = memo.svd(random(6, 4))
    second = memo.svd(random(6, 4))
    assert second is first
    assert (empty_memo.hits, empty_memo.misses) == (1, 1)


def test_the_result_is_that_of_the_kernel():
    u, s, vh = memo.svd(random(6, 4))
    torch.testing.assert_close(u * s @ vh, random(6, 4))
    assert bool((s.diff() <= 0).all())


@pytest.mark.parametrize(
    "other",
    [
        random(6, 4, seed=1),
        random(6, 4).float(),
        random(6, 4).reshape(4, 6),
        random(6, 4).where(random(6, 4) != random(6, 4)[2, 1], torch.tensor(0.0).double()),
    ],
    ids=["content", "dtype", "shape", "one entry"],
)
def test_another_matrix_is_a_miss(empty_memo, other):
    memo.svd(random(6, 4))
    memo.svd(other)
    assert (empty_memo.hits, empty_memo.misses) == (0, 2)


def test_the_layout_in_memory_does_not_matter(empty_memo):
    matrix = random(6, 4)
    memo.svd(matrix)
    memo.svd(matrix.T.contiguous().T)
    assert empty_memo.hits == 1


def test_options_kernels_and_further_tensors_are_part_of_the_key(empty_memo):
    matrix = random(6, 4)
    results = [
        scaled(matrix),
        scaled(matrix, factor=2.0),
        scaled(matrix, matrix),
        scaled(matrix, random(6, 4, seed=1)),
        memo.svd(matrix)[0],
    ]
    assert (empty_memo.hits, empty_memo.misses) == (0, 5)
    torch.testing.assert_close(results[1], matrix * 2)
    torch.testing.assert_close(results[2], matrix * 2)


def test_a_change_in_place_is_noticed(empty_memo):
    matrix = random(6, 4)
    before = memo.svd(matrix)[1].clone()
    with torch.no_grad():
        matrix[0, 0] += 1
    after = memo.svd(matrix)[1]
    assert empty_memo.misses == 2
    assert not torch.equal(before, after)


def test_the_least_recently_used_is_forgotten_first():
    matrices = [random(8, 8, seed=seed) for seed in range(3)]
    own = Memo(limit_bytes=2 * matrices[0].nbytes)

    def get(index: int) -> Tensor:
        return own.get((index,), lambda: matrices[index])

    get(0), get(1), get(0), get(2)  # 1 is the one not used for longest.
    assert own.misses == 3
    get(0), get(2)
    assert own.misses == 3
    get(1)
    assert own.misses == 4


def test_a_result_above_the_limit_is_given_and_not_kept():
    own = Memo(limit_bytes=100)
    for _ in range(2):
        assert own.get(("big",), lambda: torch.ones(100)).sum() == 100
    assert own.misses == 2
    own.get(("small",), lambda: torch.ones(2))
    own.get(("small",), lambda: torch.ones(2))
    assert own.hits == 1


def test_what_a_result_holds_twice_counts_once():
    own, shared = Memo(limit_bytes=100), torch.ones(20)
    for _ in range(2):
        own.get(("shared",), lambda: {"query": (shared, 3), "key": (shared, 3)})
    assert own.hits == 1


def test_clear_forgets(empty_memo):
    memo.svd(random(6, 4))
    empty_memo.clear()
    assert (empty_memo.hits, empty_memo.misses) == (0, 0)
    memo.svd(random(6, 4))
    assert empty_memo.misses == 1


def test_a_sweep_over_ranks_pays_for_one_svd(empty_memo):
    for rank in range(1, 9):
        TruncatedSVD(rank=rank).decompose(random(30, 20).clone())
    assert (empty_memo.hits, empty_memo.misses) == (7, 1)


def test_no_decomposer_changes_what_the_memo_keeps(empty_memo):
    first = TruncatedSVD(rank=3).decompose(random(30, 20))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    second = TruncatedSVD(rank=3).decompose(random(30, 20))
    assert second.to_dense().abs().sum() > 0


class Counting(nn.Module):
    """A layer behind a plain factor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.factor, self.runs = nn.Linear(3, 3), 1.0, 0

    def forward(self, x):
        self.runs += 1
        return self.layer(x * self.factor)


def energy(model: nn.Module) -> float:
    """The mean square of what the layer is given, by way of compress."""
    norm = CalibratedNorms("full", damping=0.0)
    sites, _ = Select("layer").split(model)
    entry = norm.calibrate(model, sites, [single(4, 3)]).statistics["layer"]
    return float(entry.columns.trace())


def changed_attribute(model):
    model.factor = 3.0


def added_hook(model):
    model.layer.register_forward_pre_hook(lambda module, args: (3 * args[0],))


def changed_forward(model):
    model.forward = MethodType(lambda self, x: self.layer(3 * x), model)


def changed_class(model):
    class Counting(type(model)):
        def forward(self, x):
            return self.layer(3 * x)

    model.__class__ = Counting


CHANGES = [changed_attribute, added_hook, changed_forward, changed_class]


@pytest.mark.parametrize("change", CHANGES)
def test_what_no_key_shows_is_seen_without_the_promise(empty_memo, change):
    model = Counting()
    before = energy(model)
    change(model)
    assert energy(model) == pytest.approx(9 * before)


def test_the_promise_is_kept_by_content_and_of_that_object_alone(empty_memo):
    model = memo.unchanging(Counting())
    assert memo.unchanging(model) is model
    first = energy(model)
    assert energy(model) == first and model.runs == 1
    with torch.no_grad():
        model.layer.weight += 1  # Weights may change: the key has them.
    energy(model)
    assert model.runs == 2
    twin = copy.deepcopy(model)
    assert memo.model_key(twin) is None and memo.model_key(model) is not None
    energy(twin), energy(twin)
    assert twin.runs == 4
    assert memo.model_key(memo.unchanging(twin)) != memo.model_key(model)


def test_one_call_runs_a_model_once_and_leaves_no_promise(empty_memo, monkeypatch):
    monkeypatch.setattr(norms, "MEMO", empty_memo)
    monkeypatch.setattr(budgeted, "MEMO", empty_memo)
    model, data = Counting(), [single(8, 3)]
    mix = MixedAllocation([GPTQ(bits=2)], Budget(ratio=1.2), NormError(), rivals=0)
    compress(model, mix, norm=CalibratedNorms("full"), data=data)
    assert model.runs == 1  # For the choice and for what is made of it.
    assert memo.model_key(model) is None
    assert not any(key[0] in ("calibration", "analysis", "losses") for key in empty_memo._store)
    model.factor = 3.0
    compress(model, mix, norm=CalibratedNorms("full"), data=data)
    assert model.runs == 2


def test_a_promise_outlives_the_call(empty_memo, monkeypatch):
    monkeypatch.setattr(norms, "MEMO", empty_memo)
    model, data = memo.unchanging(Counting()), [single(8, 3)]
    for bits in (2, 3, 4):
        compress(model, GPTQ(bits=bits), norm=CalibratedNorms("full"), data=data)
    assert model.runs == 1


def test_forgetting_a_part_of_keys_leaves_the_others():
    own, part = Memo(), object()
    own.get(("a", part), lambda: torch.ones(4))
    own.get(("b",), lambda: torch.ones(4))
    own.forget(part)
    assert list(own._store) == [("b",)] and own._bytes == 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int8])
def test_every_dtype_has_a_fingerprint(dtype):
    matrix = (random(6, 4) * 10).to(dtype)
    assert memo.fingerprint(matrix) == memo.fingerprint(matrix.clone())
    changed = matrix.clone()
    changed[3, 2] += 1
    assert memo.fingerprint(matrix) != memo.fingerprint(changed)
