"""Products of sparse factors: the gradient, the fall of the error, and pruning at their bytes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sum as random
from made_tensors import tensor_bytes
from torch import Tensor

from lowrank.approximation.sparse_part import sparse_within
from lowrank.decomposers import SparseFactors
from lowrank.decomposers.sparse_factors import Target
from lowrank.factorizations import Product, Sparse
from lowrank.norms import IDENTITY, Diagonal, Full, Norm

OUT, INNER = 12, 18


def moment(size: int = INNER) -> Tensor:
    x = random(200, size) @ random(size, size, seed=1)
    return x.T @ x / len(x)


NORMS: dict[str, Norm] = {
    "identity": IDENTITY,
    "diagonal": Diagonal(moment().diagonal(), random(OUT).square()),
    "full": Full(moment(), damping=0.01),
    "full and rows": Full(moment(), random(OUT).square()),
    "singular": Full(random(9, INNER).T @ random(9, INNER)),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())


def test_it_pays_where_rows_are_mixed_from_a_few():
    weight = random(40, 2) @ random(2, 40)
    form = SparseFactors(4, share=0.5).decompose(weight)
    assert isinstance(form, Product) and form.notes == ()
    part = sparse_within(weight, IDENTITY, sum(t.nbytes for t in form.state_dict().values()))
    assert part is not None
    assert IDENTITY(weight - form.to_dense()) < 0.3 * IDENTITY(weight - part.to_dense())


@every_norm
def test_the_gradient_is_that_of_the_error(norm):
    target = Target(random(OUT, INNER), norm)
    factors = [random(OUT, 5), random(5, 7), random(7, INNER)]
    for place in range(3):
        factor = factors[place].clone().requires_grad_()
        whole = [*factors[:place], factor, *factors[place + 1 :]]
        missed = target.weight - whole[0] @ whole[1] @ whole[2]
        half = (((missed @ target.moment) * missed).sum(dim=1) * target.rows).sum() / 2
        half.backward()
        torch.testing.assert_close(target.gradient(factors, place)(factor.detach()), factor.grad)


@every_norm
@pytest.mark.parametrize("place", [0, 1])
def test_a_step_never_raises_the_error(norm, place):
    target = Target(random(OUT, INNER), norm)
    factors = [random(OUT, OUT), random(OUT, INNER)]
    error = lambda: norm(target.weight - factors[0] @ factors[1])  # noqa: E731
    for _ in range(5):
        before = error()
        factors[place] = target.moved(factors, place)
        assert error() <= before * (1 + 1e-12)


@every_norm
def test_more_iterations_gain(norm):
    weight = random(OUT, INNER)
    errors = []
    for iterations in (0, 5, 50):
        target, counts = Target(weight, norm), [60, 60]
        factors = target.start(counts)
        method = SparseFactors(2, iterations=iterations)
        method.alternate(target, factors, counts)
        errors.append(norm(target.weight - factors[0] @ factors[1]))
    assert errors[2] < errors[1] < errors[0]


@every_norm
@given(ratio=st.floats(1.3, 2.2), factors=st.integers(2, 3), seed=st.integers(0, 9))
@settings(max_examples=8)
def test_it_is_never_worse_than_pruning_at_its_bytes(norm, ratio, factors, seed):
    weight = random(OUT, INNER, seed=seed)
    form = SparseFactors(ratio, factors, share=0.5, iterations=5).decompose(weight, norm)
    size = tensor_bytes(form)
    assert size <= weight.nbytes / ratio
    part = sparse_within(weight, norm, size)
    assert part is not None
    assert norm(weight - form.to_dense()) <= norm(weight - part.to_dense()) * (1 + 1e-9)


def test_a_sparse_weight_comes_back_and_says_that_it_is_one():
    weight = random(OUT, INNER) * (random(OUT, INNER, seed=3).abs() > 1.5)
    form = SparseFactors(2).decompose(weight)
    assert isinstance(form, Sparse) and "instead of a hybrid" in " ".join(form.notes)
    torch.testing.assert_close(form.to_dense(), weight)


def test_three_factors_run_one_after_the_other():
    target, counts = Target(random(40, 40), IDENTITY), [90, 90, 200]
    factors = target.start(counts)
    SparseFactors(2, 3, iterations=3).alternate(target, factors, counts)
    assert [
        int((factor != 0).sum()) <= count for factor, count in zip(factors, counts, strict=True)
    ]
    assert [factor.shape for factor in factors] == [(40, 40)] * 3


class TestBadInput:
    def test_a_ratio_that_is_out_of_reach(self):
        with pytest.raises(ValueError, match="out of reach for 2 factors .* a factor of 12 rows"):
            SparseFactors(8).decompose(random(OUT, INNER))

    def test_one_factor(self):
        with pytest.raises(ValueError, match="factors=1 must be at least 2"):
            SparseFactors(2, factors=1)

    @pytest.mark.parametrize("share", [0, 1])
    def test_a_share_for_nothing(self, share):
        with pytest.raises(ValueError, match="share=. must lie in"):
            SparseFactors(2, share=share)
