"""What every method promises of its results, whatever it does."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from lowrank import decomposers
from lowrank.allocation import (
    Budget,
    ByName,
    GlobalRank,
    MixedAllocation,
    SensitivityThreshold,
    Uniform,
)
from lowrank.decomposers import (
    ALPS,
    GPTQ,
    Chain,
    Decomposer,
    HalfPrecision,
    LoRA,
    MagnitudePruning,
    Monarch,
    PruneAndQuantize,
    Quantization,
    RandomPruning,
    RobustPCA,
    TruncatedSVD,
    Tucker2,
    Uncompressed,
)
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


@dataclass(frozen=True)
class Mine(Doubled):
    """A method of one's own, which says nothing of its family or its level."""

    seed: int = 0
    name: str = "x"
    is_fast: bool = True
    within: Decomposer | None = None
    sizes: tuple[int, ...] = ()
    strength: float | None = None
    passes: int = 3


@dataclass(frozen=True)
class Named(Mine):
    family: ClassVar[str] = "doubled"

    @property
    def level(self):
        return 2.5


@pytest.mark.parametrize(
    "method, family, level",
    [
        (Mine(), "other", 3),
        (Mine(seed=7, strength=0.5), "other", 0.5),
        (Mine(strength=np.float64(0.5)), "other", 0.5),
        (Mine(strength=np.int64(4)), "other", 4),
        (Mine(sizes=(2, 3)), "other", 6),
        (Mine(within=Uncompressed(), sizes=(2, 3)), "other", 1),
        (Doubled(), "other", None),
        (Named(), "doubled", 2.5),
        (TruncatedSVD(energy=0.9), "low rank", 0.9),
        (TruncatedSVD(compression_ratio=4), "low rank", 4),
        (Tucker2(ranks=(2, 3)), "low rank", 6),
        (MagnitudePruning(0.7), "sparse", 0.7),
        (RandomPruning(compression_ratio=3, seed=5), "sparse", 3),
        (ALPS(pattern="1:4"), "sparse", 0.75),
        (ALPS(0.5, pattern="4x4"), "sparse", 0.5),
        (HalfPrecision(), "quantized", 16),
        (Monarch(compression_ratio=2), "hybrid", 2),
        (RobustPCA(), "hybrid", None),
        (LoRA(4, 8, base=Quantization(3)), "adapter", 4),
        (PruneAndQuantize(ALPS(0.6), GPTQ(3)), "hybrid", 0.6),
        (Chain([TruncatedSVD(compression_ratio=2), Quantization(8)]), "hybrid", 2),
        (Uniform(GPTQ(3)), "quantized", 3),
        (ByName({"a": GPTQ(3), "b": Quantization(3)}), "quantized", 3),
        (ByName({"a": GPTQ(3), "b": MagnitudePruning(0.5)}), "mix", None),
        (GlobalRank(compression_ratio=5), "low rank", 5),
        (MixedAllocation([GPTQ(3)], Budget(bits_per_weight=3.3)), "mix", 3.3),
        (SensitivityThreshold([TruncatedSVD(4)], Budget(limit=10.0)), "low rank", 10),
    ],
    ids=str,
)
def test_a_method_says_its_family_and_its_level(method, family, level):
    assert (method.family, method.level) == (family, level)
    assert type(method.level) in (int, float, type(None))


def test_all_methods_here_say_their_family():
    found = {name: kind.family for name, kind in vars(decomposers).items() if is_method(kind)}
    assert len(found) > 20 and "other" not in found.values()


def is_method(kind):
    return isinstance(kind, type) and issubclass(kind, Decomposer) and kind is not Decomposer
