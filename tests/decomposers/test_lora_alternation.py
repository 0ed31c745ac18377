"""Starts of adapters by alternation: LoftQ and QPiSSA, beside loops in numpy."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from digits_task import TASK
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from test_quantized_plus_low_rank import NORMS, decaying
from torch import Tensor

from lowrank.approximation.comparison import error_of
from lowrank.approximation.low_rank import nearest
from lowrank.compression.compress import compress
from lowrank.decomposers import (
    GPTQ,
    CodebookQuantization,
    Decomposer,
    DoRA,
    LoRA,
    MagnitudePruning,
    Quantization,
    SparseGPT,
)
from lowrank.factorizations import Dense, Factorization, Sum
from lowrank.norms import IDENTITY, Norm
from lowrank.recovery import FineTune

LEVELS = Quantization(2, group_size="channel", symmetric=False, scale_dtype="float32")
PRUNED = MagnitudePruning(0.8)
BASES = {"quantized": LEVELS, "pruned": PRUNED, "codebook": CodebookQuantization(1)}
OF_NORM = {
    "identity": BASES | {"gptq": GPTQ(2, 8)},
    "diagonal": {"quantized": LEVELS, "gptq": GPTQ(2, 8), "pruned": PRUNED},
    "full": {"gptq": GPTQ(2, 8), "pruned": SparseGPT(0.8)},
}
CASES = [(norm, name) for norm, bases in OF_NORM.items() for name in bases]
every_start = pytest.mark.parametrize("init", ["residual", "pissa"])


def start(iterations: int, base=LEVELS, rank=3, init="residual") -> LoRA:
    return LoRA(rank, 2.0 * rank, base=base, init=init, iterations=iterations)


def rounded(weight: np.ndarray) -> np.ndarray:
    """To four levels of a row, which hold 0."""
    low, high = np.minimum(weight.min(1), 0), np.maximum(weight.max(1), 0)
    exact = (high - low) / 3
    scale = exact.astype(np.float32)
    scale = np.where(scale < exact, np.nextafter(scale, np.float32(np.inf)), scale)
    scale = scale.astype(float)[:, None]
    zero = np.round(-low[:, None] / scale)
    return (np.clip(np.round(weight / scale) + zero, 0, 3) - zero) * scale


def pruned(weight: np.ndarray) -> np.ndarray:
    """To the largest fifth."""
    least = np.sort(np.abs(weight).ravel())[-round(0.2 * weight.size)]
    return np.where(np.abs(weight) >= least, weight, 0)


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


def by_numpy(weight: np.ndarray, make, rank: int, turns: int, init: str) -> list[np.ndarray]:
    """base + product of each turn: algorithm 1 of LoftQ, and QPiSSA."""
    base = product = np.zeros_like(weight)
    found = []
    for _ in range(turns):
        if init == "pissa":
            product = truncated(weight - base, rank)
        base = make(weight - product)
        if init == "residual":
            product = truncated(weight - base, rank)
        found.append(base + product)
    return found


@every_start
@pytest.mark.parametrize("base, make", [(LEVELS, rounded), (PRUNED, pruned)], ids=["q", "s"])
@pytest.mark.parametrize("turns", [1, 2, 5])
def test_it_is_the_nearest_turn_of_an_independent_loop(init, base, make, turns):
    weight = decaying()
    turned = by_numpy(weight.numpy(), make, 3, turns, init)
    errors = [np.linalg.norm(weight.numpy() - one) for one in turned]
    ours = start(turns, base, init=init).decompose(weight)
    torch.testing.assert_close(
        ours.to_dense().detach(), torch.from_numpy(turned[int(np.argmin(errors))])
    )


@every_start
@pytest.mark.parametrize("norm, name", CASES)
def test_more_turns_are_never_further_and_some_are_nearer(norm, name, init):
    weight, method = decaying(), start(1, OF_NORM[norm][name], init=init)
    forms = [replace(method, iterations=n).decompose(weight, NORMS[norm]) for n in (1, 2, 3, 6)]
    errors = [error_of(weight, NORMS[norm], form) for form in forms]
    assert all(b <= a for a, b in zip(errors, errors[1:], strict=False))
    assert errors[-1] < errors[0]


@settings(max_examples=20)
@given(rank=st.integers(1, 6), seed=st.integers(0, 99), name=st.sampled_from(list(BASES)))
def test_never_further_than_the_base_alone(rank, seed, name):
    weight = random(24, 32, seed=seed)
    errors = [
        error_of(weight, IDENTITY, start(n, BASES[name], rank).decompose(weight)) for n in (1, 4)
    ]
    assert errors[1] <= errors[0] < error_of(weight, IDENTITY, BASES[name].decompose(weight))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_turn_is_the_base_and_the_best_product_for_what_it_misses_to_the_bit(norm, dtype):
    weight, base = decaying().to(dtype), GPTQ(2, 8)
    method = replace(start(1, base), alpha=12.0)
    form = method.decompose(weight, NORMS[norm])
    alone = base.decompose(weight, NORMS[norm]).to_dense()
    assert torch.equal(form.terms[0].to_dense(), alone)
    wide = torch.promote_types(dtype, torch.float32)
    factors = nearest(weight.to(wide) - alone.to(wide), 3, NORMS[norm])[:2]
    for ours, factor in zip(form.terms[1].term.factors, factors, strict=True):
        assert torch.equal(ours.weight, (0.5 * factor).to(dtype))


def test_in_half_precision_turns_gain_too():
    weight = decaying().bfloat16()
    one, five = (start(n).decompose(weight) for n in (1, 5))
    assert {p.dtype for p in five.parameters()} == {torch.bfloat16}
    assert error_of(weight, IDENTITY, five) < error_of(weight, IDENTITY, one)


def test_dora_begins_there_too():
    weight = decaying()
    adapted = start(5).decompose(weight).to_dense()
    torch.testing.assert_close(DoRA(start(5)).decompose(weight).to_dense(), adapted)


def test_what_it_starts_from_is_trained_and_the_base_is_not():
    result = compress(TASK.model(), start(3))
    form = next(m for m in result.model.modules() if isinstance(m, Sum))
    base, left = form.terms[0].to_dense().clone(), form.terms[1].term.factors[0].weight
    before = left.detach().clone()
    recovery = FineTune(1, 1e-3, batch_size=256, scope="factorizations")
    found = recovery.recover_compressed(result, TASK)
    assert torch.equal(form.terms[0].to_dense(), base) and not torch.equal(left, before)
    assert found["trained_params"] == 3 * (64 + 16 + 16 + 10)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"iterations": 0}, "iterations=0 must be at least 1"),
        ({"iterations": 1.5}, "iterations=1.5 must be .* an integer"),
        ({"iterations": 2, "init": "zero"}, "iterations=2 has no effect with init='zero'"),
        (
            {"iterations": 2, "init": "pissa", "base": None},
            "no effect with init='pissa' and base=N",
        ),
    ],
)
def test_turns_without_effect_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        replace(start(1), **options)


def test_a_base_that_equals_the_weight_leaves_nothing_to_start_from():
    with pytest.raises(ValueError, match="'pissa' has nothing to start from: the weight is zero"):
        start(2, init="pissa").decompose(torch.zeros(8, 9))
    with pytest.raises(ValueError, match="the base, .* equals the weight. Use") as caught:
        start(2).decompose(torch.zeros(8, 9))
    assert caught.value.nearest == LoRA(3, 6.0, base=LEVELS)


@dataclass(frozen=True)
class Late(Decomposer):
    """Half of the matrix `all_of`, and all of it for any other."""

    all_of: Tensor

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        return Dense((0.5 if torch.equal(weight, self.all_of) else 1.0) * self.all_of)


@every_start
def test_a_base_that_equals_the_weight_later_ends_the_turns(init):
    """The adapter for it would be zero, and never learn."""
    weight = random(24, 32)
    one, four = (start(n, Late(weight), init=init).decompose(weight) for n in (1, 4))
    assert torch.equal(four.to_dense(), one.to_dense())
    assert all(bool(factor.weight.any()) for factor in four.terms[1].term.factors)
