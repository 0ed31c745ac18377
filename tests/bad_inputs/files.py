"""Files of models of one compressed layer, and edits of them."""

import io
from pathlib import Path

import hostile
import torch
from torch import nn

from lowrank import checkpoint
from lowrank.compress import compress
from lowrank.decomposers import (
    EntropyCodedQuantization,
    MagnitudePruning,
    Quantization,
)
from lowrank.factorizations import BlockDiagonal, Dense, Factorization, RegroupedProduct
from lowrank.factorized import FactorizedLinear

FOUR_BITS, ZEROS = Quantization(4), Quantization(3, group_size=4, symmetric=False)
PRUNED, FEW = MagnitudePruning(0.5), MagnitudePruning(0.99)
BLOCKS = MagnitudePruning(0.5, pattern="4x3")
ENTROPY = EntropyCodedQuantization(3)
NAN, INF = float("nan"), float("inf")
NOT_WHOLE = "no whole safetensors file"


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(12, 8)


def convolution() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 8, 3)


def two() -> nn.Sequential:
    return nn.Sequential(linear(), nn.Linear(8, 3))


def monarch() -> RegroupedProduct:
    """A matrix of 8 x 12 in 2 x 2 blocks of rank 1."""
    left = BlockDiagonal(2, Dense(torch.rand(8, 2)))
    right = BlockDiagonal(2, Dense(torch.rand(4, 6)))
    return RegroupedProduct(left, right, (2, 2), torch.ones(2, 2))


def pickled(value, zipped=True) -> bytes:
    """A file of torch.save."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def saved(folder: Path, layer=linear, method=FOUR_BITS) -> Path:
    """A file of a model of one layer, compressed by a method, or that is a factorization."""
    path = folder / "model.safetensors"
    if isinstance(method, Factorization):
        model = nn.Sequential(FactorizedLinear(method, layer().bias))
    else:
        model = compress(nn.Sequential(layer()), method).model
    checkpoint.save(model, path)
    return path


def header(change, method=FOUR_BITS, layer=linear):
    """Load a file after `change` was applied to the JSON of its header."""

    def act(folder):
        path = hostile.edited(saved(folder, layer, method), change)
        return checkpoint.load(nn.Sequential(layer()), path)

    return act
