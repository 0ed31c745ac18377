"""Shared-factor LoRA: singular vectors of W, one tensor for base and tasks, projected steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from torch import Tensor, nn

import lowrank
from lowrank import measure
from lowrank.decomposers import Quantization, SharedLoRA
from lowrank.factorizations import Factorization
from lowrank.norms import IDENTITY, Full, Norm

both_sides = pytest.mark.parametrize("side", ["left", "right"])


def factor_of(form: Factorization, side: str, compressed: bool) -> Tensor:
    product = form if compressed else form.terms[1].term
    return product.factors[0 if side == "left" else 1].weight


def full() -> Norm:
    inputs = random(30, 60, seed=3) * torch.linspace(0.2, 2, 30)[:, None]
    return Full(inputs @ inputs.T / 60, torch.linspace(0.5, 2, 20).double())


@both_sides
@pytest.mark.parametrize("compressed", [False, True])
class TestFactor:
    def test_it_is_orthonormal_and_spans_the_singular_vectors(self, side, compressed):
        weight = random(20, 30)
        form = SharedLoRA(4, 8, side=side, compress_base=compressed).decompose(weight)
        factor = factor_of(form, side, compressed)
        vectors = factor if side == "left" else factor.T
        u, _, vh = torch.linalg.svd(weight)
        wanted = u[:, :4] if side == "left" else vh[:4].T
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(4).double())
        torch.testing.assert_close(vectors @ vectors.T, wanted @ wanted.T)
        assert not factor.requires_grad

    def test_what_is_trained_is_one_factor_that_starts_at_zero(self, side, compressed):
        method = SharedLoRA(4, 8, side=side, compress_base=compressed)
        trained = [p for p in method.decompose(random(20, 30)).parameters() if p.requires_grad]
        assert len(trained) == 1 and not trained[0].any()
        assert trained[0].numel() == method.trained((20, 30)) == 4 * (30 if side == "left" else 20)

    @settings(max_examples=20)
    @given(
        rank=st.integers(1, 20),
        alpha=st.floats(0.5, 64),
        rate=st.floats(1e-3, 1),
        seed=st.integers(0, 50),
    )
    def test_a_step_on_it_is_the_projected_step_on_the_weight(
        self, side, compressed, rank, alpha, rate, seed
    ):
        method = SharedLoRA(rank, alpha, side=side, compress_base=compressed)
        form = method.decompose(random(20, 30, seed=seed))
        x, upstream = random(7, 30, seed=1), random(7, 20, seed=2)
        before = form.to_dense().detach()
        (trained,) = [p for p in form.parameters() if p.requires_grad]
        (gradient,) = torch.autograd.grad((form(x) * upstream).sum(), trained)
        with torch.no_grad():
            trained -= rate * gradient
        factor, step = (
            factor_of(form, side, compressed),
            (alpha / rank) ** 2 * rate * upstream.T @ x,
        )
        moved = factor @ factor.T @ step if side == "left" else step @ factor.T @ factor
        torch.testing.assert_close(form.to_dense().detach(), before - moved)


@both_sides
@pytest.mark.parametrize("norm", [IDENTITY, full()], ids=["identity", "full"])
def test_a_base_of_the_factor_is_the_nearest_of_its_rank(side, norm):
    weight = random(20, 30)
    form = SharedLoRA(4, 8, side=side, compress_base=True).decompose(weight, norm)
    tail = torch.linalg.svdvals(norm.whiten(weight))[4:].norm()
    assert norm(weight - form.to_dense().detach()) == pytest.approx(float(tail), rel=1e-9)


@both_sides
def test_a_base_of_the_factor_and_a_task_hold_it_once(side, tmp_path):
    model = nn.Sequential(nn.Linear(30, 20, bias=False))
    form = lowrank.compress(model, SharedLoRA(4, 8, side=side, compress_base=True)).model
    frozen, task = 4 * (20 + 30), 4 * (30 if side == "left" else 20)
    assert measure.params(form) == frozen + task
    assert measure.trainable_params(form) == task
    trained = next(p for p in form.parameters() if p.requires_grad)
    nn.init.normal_(trained)
    assert measure.nbytes(form) == 4 * (frozen + task)
    lowrank.save(form, tmp_path / "shared.safetensors")
    again = lowrank.load(tmp_path / "shared.safetensors", model)
    assert torch.equal(again(torch.ones(2, 30)), form(torch.ones(2, 30)))
    assert measure.nbytes(again) == 4 * (frozen + task)


@both_sides
@pytest.mark.parametrize("base", [None, Quantization(3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_0_equals_the_base_bit_for_bit(side, base, dtype):
    weight, x = random(20, 30, dtype=dtype), random(5, 30, dtype=dtype)
    form = SharedLoRA(4, 8, side=side, base=base).decompose(weight).eval()
    alone = lowrank.Uncompressed() if base is None else base
    assert torch.equal(form(x), alone.decompose(weight)(x))
    own = SharedLoRA(4, 8, side=side, compress_base=True).decompose(weight).eval()
    left, right = (
        part.terms[0].weight if hasattr(part, "terms") else part.weight for part in own.factors
    )
    assert torch.equal(own(x), x @ right.T @ left.T)


def test_bad_input_is_refused():
    weight = random(20, 30)
    with pytest.raises(ValueError, match=r"side='top' must be one of \('left', 'right'\)"):
        SharedLoRA(4, 8, side="top")
    with pytest.raises(ValueError, match="compress_base=True makes the base .* leave out one"):
        SharedLoRA(4, 8, base=Quantization(4), compress_base=True)
    with pytest.raises(ValueError, match=r"rank=21 does not fit .*1\.\.20"):
        SharedLoRA(21, 8).decompose(weight)
    with pytest.raises(ValueError, match="alpha=0 must be above 0"):
        SharedLoRA(4, 0)
