"""The allocations that the contract is checked for, and the models that they choose for."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from made_tensors import random
from torch import Tensor, nn

from lowrank.allocation import (
    AdapterRanks,
    Allocation,
    Budget,
    ByName,
    GlobalMagnitude,
    GlobalRank,
    KeptEnergy,
    MixedAllocation,
    NormError,
    OutlierSparsity,
    Plan,
    Problem,
    SensitivityThreshold,
    SharedBasis,
    Uniform,
    grid,
)
from lowrank.compression.compress import as_norms, compress
from lowrank.compression.report import Compressed
from lowrank.decomposers import LoRA, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.measure import nbytes, trainable_params
from lowrank.model.select import Select
from lowrank.norms import Diagonal, Full, Identity

SITES = ["query", "key", "value", "out", "head"]
NORMS = {"identity": Identity, "diagonal": Diagonal, "full": Full}
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


class Network(nn.Module):
    """Layers that read the same inputs, a weight of two modules, a head of one row, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        for name in SITES[:3]:
            setattr(self, name, nn.Linear(32, 24))
        self.out, self.again = nn.Linear(24, 32), nn.Linear(24, 32)
        self.again.weight = self.out.weight
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.query(x).sigmoid() * self.key(x) + self.value(x)
        return self.head(self.norm(self.out(mixed) + self.again(mixed.relu())))


def network(dtype: torch.dtype = torch.float32) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Network().eval()
    model.value.weight.data *= 0.3  # Not all layers alike.
    model.query.weight.data[::4, ::5] *= 20
    return model.to(dtype)


def inputs(dtype: torch.dtype = torch.float32, width: int = 32) -> list[Tensor]:
    mixing = random(width, width, seed=1)
    return [(random(20, width, seed=seed) @ mixing).to(dtype) for seed in (2, 3)]


# What a result takes of what an allocation may spend, and how much that is.
Spent = Callable[[nn.Module, Compressed], tuple[float, float]]


def model_bytes(ratio: float) -> Spent:
    return lambda model, result: (nbytes(result.model), nbytes(model) / ratio)


def layer_bytes(share: float) -> Spent:
    def spent(_: nn.Module, result: Compressed) -> tuple[float, float]:
        taken = sum(layer.bytes for layer in result.layers)
        return taken, share * sum(layer.dense_bytes for layer in result.layers)

    return spent


def layer_bits(bits: float) -> Spent:
    def spent(_: nn.Module, result: Compressed) -> tuple[float, float]:
        taken = sum(8 * layer.bytes for layer in result.layers)
        return taken, bits * sum(layer.dense_params for layer in result.layers)

    return spent


def trained(params: int) -> Spent:
    return lambda model, result: (
        sum(
            trainable_params(result.model.get_submodule(layer.name).factorization)
            for layer in result.layers
        ),
        params,
    )


def layer_params(share: float, slack: float = 0, of: list[str] = SITES) -> Spent:
    """`slack`: what rounding in all layers together can add."""

    def spent(_: nn.Module, result: Compressed) -> tuple[float, float]:
        layers = [layer for layer in result.layers if layer.name in of]
        dense = sum(layer.dense_params for layer in layers)
        return sum(layer.params for layer in layers), share * dense + slack

    return spent


@dataclass(frozen=True)
class Row:
    """An allocation and what is to come of it for `network()`.

    Attributes:
        level, family: with which it is drawn.
        spent: what it takes and may take; None where nothing limits it.
        norms: in which it can choose, by name.
        data: whether it can do nothing without calibration data.
        sites: the weights that it decides.
        alone: what it says of a model of one layer; empty where it compresses it.
        saves: whether it makes weights smaller.
    """

    allocation: Allocation
    level: float | None
    family: str
    spent: Spent | None = None
    norms: tuple[str, ...] = ("identity",)
    data: bool = False
    sites: tuple[str, ...] = tuple(SITES)
    alone: str = ""
    saves: bool = True

    def compress(self, model: nn.Module, **options: Any) -> Compressed:
        given = next(model.parameters())
        width = 32 if isinstance(model, Network) else given.shape[1]
        data = inputs(given.dtype, width) if self.data else None
        return compress(model, self.allocation, data=data, **options)

    def plan(self, model: nn.Module, where: str | list[str] = "*", norm: str | None = None) -> Plan:
        data = inputs() if self.data or norm not in (None, "identity") else None
        norms = as_norms(norm, self.allocation, data)
        sites = Select(where).split(model)[0]
        return self.allocation.allocate(Problem(model, sites, norms, data))


ALL = tuple(NORMS)
SVDS = grid(TruncatedSVD, {"rank": [1, 2, 4, 6, 8]})
MIXED = [Quantization(bits=4), Quantization(bits=2), MagnitudePruning(0.7), TruncatedSVD(rank=4)]
NO_PATTERN = r"the patterns \['query'.*decide no layer"

ROWS = {
    "one for all": Row(Uniform(TruncatedSVD(rank=4)), 4, "low rank", norms=ALL),
    "by name": Row(
        ByName({"query": TruncatedSVD(rank=4), "*": MagnitudePruning(0.5)}),
        None,
        "mix",
        norms=("identity", "diagonal"),
        alone=NO_PATTERN,
    ),
    "by name, two of them": Row(
        ByName({"query": TruncatedSVD(rank=4), "key": TruncatedSVD(rank=4)}),
        4,
        "low rank",
        norms=ALL,
        sites=("query", "key"),
        alone=NO_PATTERN,
    ),
    "global magnitude": Row(GlobalMagnitude(0.8), 0.8, "sparse", layer_params(0.2, slack=0.5)),
    "global rank": Row(GlobalRank(2), 2, "low rank", model_bytes(2)),
    "global rank of the layers": Row(
        GlobalRank(4, view="channel", of="layers"), 4, "low rank", layer_bytes(1 / 4)
    ),
    "kept energy": Row(KeptEnergy(2), 2, "low rank", model_bytes(2)),
    "kept energy of the layers": Row(
        KeptEnergy(4, view="channel", of="layers"), 4, "low rank", layer_bytes(1 / 4)
    ),
    "mix by the norm": Row(
        MixedAllocation(MIXED, Budget(ratio=4), NormError(), rivals=0),
        4,
        "mix",
        model_bytes(4),
        norms=("identity", "diagonal"),
    ),
    "mix by what is measured": Row(
        MixedAllocation(MIXED, Budget(bits_per_weight=5), rivals=2),
        5,
        "mix",
        layer_bits(5),
        norms=("identity", "diagonal"),
        data=True,
    ),
    "sensitivity threshold": Row(
        SensitivityThreshold(SVDS, Budget(ratio=3, of="layers"), NormError(relative=True)),
        3,
        "low rank",
        layer_bytes(1 / 3),
        norms=ALL,
    ),
    "outlier sparsity": Row(
        OutlierSparsity(functools.partial(MagnitudePruning, within="matrix"), 0.6),
        0.6,
        "sparse",
        layer_params(0.4, slack=len(SITES) / 2),
        norms=("diagonal",),
        data=True,
    ),
    "adapter ranks": Row(
        AdapterRanks(LoRA(rank=2, alpha=4), params=700, score="weight"),
        700,
        "adapter",
        trained(700),
        norms=ALL,
        saves=False,
    ),
    "shared basis": Row(
        SharedBasis([SITES[:3]], 3),
        3,
        "low rank",
        layer_params(1 / 3, of=SITES[:3]),
        norms=ALL,
        alone="join none of the selected layers",
    ),
}
