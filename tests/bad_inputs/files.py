"""Files of models of one compressed layer, and edits of them."""

import io
from pathlib import Path

import hostile
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import MagnitudePruning, Quantization
from lowrank.export import checkpoint
from lowrank.factorizations import (
    BlockDiagonal,
    Dense,
    EntropyCoded,
    Factorization,
    PermutedProduct,
)
from lowrank.factorizations.laws import Exponents, Law
from lowrank.model.factorized import FactorizedLinear

FOUR_BITS, ZEROS = Quantization(4), Quantization(3, group_size=4, symmetric=False)
PRUNED, FEW = MagnitudePruning(0.5), MagnitudePruning(0.99)
BLOCKS = MagnitudePruning(0.5, pattern="4x3")
NAN, INF = float("nan"), float("inf")
NOT_WHOLE = "no whole safetensors file"


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(12, 8)


def convolution() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 8, 3)


def entropy_coded() -> EntropyCoded:
    """The layer's weight in steps of a sixteenth."""
    codes = (linear().weight.detach() * 16).round().long()
    none = Exponents(torch.zeros(8, dtype=torch.int64), torch.zeros(12, dtype=torch.int64))
    return EntropyCoded.of(codes, (1 / 16, none), (Law(0.5, 0.0, 8), none))


def two() -> nn.Sequential:
    return nn.Sequential(linear(), nn.Linear(8, 3))


def monarch() -> PermutedProduct:
    """A matrix of 8 x 12 in 2 x 2 blocks of rank 1."""
    left = BlockDiagonal(2, Dense(torch.rand(8, 2)))
    right = BlockDiagonal(2, Dense(torch.rand(4, 6)))
    return PermutedProduct(left, right, (2, 2), torch.ones(2, 2).long())


def pickled(value, zipped=True) -> bytes:
    """A file of torch.save."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


ENTROPY = entropy_coded()


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
        return checkpoint.load(path, nn.Sequential(layer()))

    return act
