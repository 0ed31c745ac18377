"""Random matrices, and norms for those of 10 × 12."""

import pytest
import torch
from made_tensors import random_by_sides as random

from lowrank.norms import IDENTITY, Diagonal, Full

NORMS = {
    "identity": IDENTITY,
    "diagonal": Diagonal(torch.arange(12) + 0.1, rows=torch.arange(10) + 1.0),
    "full": Full(random(12, 30) @ random(12, 30).T, rows=torch.arange(10) + 1.0),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
