"""What every method promises of its results, whatever it does."""

import pytest
import torch

from lowrank.decomposers import Decomposer, TruncatedSVD
from lowrank.factorizations import Dense


class Doubled(Decomposer):
    def _decompose(self, weight, norm):
        return Dense(2 * weight.double())


def test_numbers_beyond_the_dtype_are_refused():
    weight = torch.full((2, 3), 4e4)
    assert float(Doubled().decompose(weight).to_dense().detach().max()) == 8e4
    with pytest.raises(ValueError, match="Dense .* in weight that are too large for torch.float16"):
        Doubled().decompose(weight.half())


def test_singular_values_beyond_the_dtype_are_refused():
    weight = 1e37 * torch.randn(400, 400, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="too large for torch.float32: compress the model in a"):
        TruncatedSVD(rank=5).decompose(weight)
