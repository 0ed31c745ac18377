"""Random matrices, and norms for those of 10 × 12."""

import pytest
import torch
from torch import Tensor

from lowrank.norms import IDENTITY, Diagonal, Full


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 100 * shape[0] + shape[1])
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


NORMS = {
    "identity": IDENTITY,
    "diagonal": Diagonal(torch.arange(12) + 0.1, rows=torch.arange(10) + 1.0),
    "full": Full(random(12, 30) @ random(12, 30).T, rows=torch.arange(10) + 1.0),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
