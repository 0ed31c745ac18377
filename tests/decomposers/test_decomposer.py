"""What every method promises of its results, whatever it does."""

import pytest
import torch

from lowrank.decomposers import Decomposer, TruncatedSVD
from lowrank.factorizations import Dense, Product


class Doubled(Decomposer):
    def _decompose(self, weight, norm):
        return Dense(2 * weight.double())


def test_numbers_beyond_the_dtype_are_refused():
    weight = torch.full((2, 3), 4e4)
    assert float(Doubled().decompose(weight).to_dense().detach().max()) == 8e4
    with pytest.raises(ValueError, match="Dense .* in weight that are too large for torch.float16"):
        Doubled().decompose(weight.half())


class Overshooting(Decomposer):
    """Factors that are finite, and whose product is not."""

    def _decompose(self, weight, norm):
        twice = 2 * torch.eye(weight.shape[1])
        return Product(Dense(weight.clone()), Dense(twice.to(weight)))


def test_a_matrix_beyond_the_dtype_is_refused_though_what_is_stored_is_within():
    weight = torch.full((2, 3), 2e4).half()
    assert bool(Overshooting().decompose(weight).to_dense().isfinite().all())
    with pytest.raises(ValueError, match="LowRank 3→3→2 .* in its matrix .* for torch.float16"):
        Overshooting().decompose(weight * 3)


def test_singular_values_beyond_the_dtype_are_refused():
    weight = 1e37 * torch.randn(400, 400, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="too large for torch.float32: compress the model in a"):
        TruncatedSVD(rank=5).decompose(weight)
