"""LoRA-XS: the frozen factors are the singular vectors, and the core is the projected update."""

import pytest
import torch
from made_tensors import random_by_sides as random
from torch import Tensor

from lowrank.decomposers import LoRAXS, MagnitudePruning, Quantization
from lowrank.decomposers.decomposer import Unfit
from lowrank.norms import Full


def pieces(form) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(factor.weight for factor in form.terms[1].term.factors)


def test_the_factors_are_those_of_the_svd():
    weight = random(20, 30)
    left, core, right = pieces(LoRAXS(4, 8).decompose(weight))
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(left @ right, u[:, :4] * s[:4] @ vh[:4])
    torch.testing.assert_close(left.T @ left, s[:4].square().diag())
    torch.testing.assert_close(right @ right.T, torch.eye(4).double())
    assert not core.any()
    assert (left.requires_grad, core.requires_grad, right.requires_grad) == (False, True, False)


def test_in_a_norm_they_are_those_of_the_nearest_matrix():
    inputs = random(30, 60, seed=3) * torch.linspace(0.2, 2, 30)[:, None]
    weight, norm = random(20, 30), Full(inputs @ inputs.T / 60, torch.linspace(0.5, 2, 20).double())
    left, _, right = pieces(LoRAXS(4, 8).decompose(weight, norm))
    tail = torch.linalg.svdvals(norm.whiten(weight))[4:].norm()
    assert norm(weight - (left @ right).detach()) == pytest.approx(float(tail), rel=1e-9)
    torch.testing.assert_close(right @ right.T, torch.eye(4).double())


@pytest.mark.parametrize("base", [None, Quantization(3), MagnitudePruning(0.5)])
def test_step_0_equals_the_base_and_the_core_learns_from_it(base):
    weight, x, upstream = random(20, 30), random(7, 30, seed=1), random(7, 20, seed=2)
    form = LoRAXS(4, 8, base=base).decompose(weight)
    assert torch.equal(
        form.to_dense(), weight if base is None else base.decompose(weight).to_dense()
    )
    left, core, right = pieces(form)
    (found,) = torch.autograd.grad((form(x) * upstream).sum(), core)
    torch.testing.assert_close(found, 2 * left.T @ (upstream.T @ x) @ right.T)
    assert found.abs().max() > 1


def test_a_weight_of_lower_rank_gives_finite_orthonormal_rows():
    right = pieces(LoRAXS(4, 8).decompose(random(20, 2) @ random(2, 30)))[2]
    torch.testing.assert_close(right @ right.T, torch.eye(4).double())


def test_a_rank_above_the_sides_is_refused():
    with pytest.raises(ValueError, match=r"rank=21 does not fit .*1\.\.20"):
        LoRAXS(21, 8).decompose(random(20, 30))
    assert LoRAXS(3, 8).trained((20, 30)) == 9


def test_a_weight_of_zeros_has_no_directions_to_train():
    with pytest.raises(Unfit, match="between singular vectors of the weight, which is zero"):
        LoRAXS(2, 4).decompose(torch.zeros(5, 6))
