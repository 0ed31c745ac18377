"""What enters a compression is checked once, where it enters."""

import cProfile
import pstats
from collections import Counter

import pytest
import torch
from torch import nn

from lowrank.allocation import Budget, MixedAllocation, NormError
from lowrank.calibration import CalibratedNorms
from lowrank.compression.compress import compress
from lowrank.decomposers import ALPS, GPTQ, Chain, PruneAndQuantize, Quantization, Tucker2

LAYERS = 3


def model(kernel: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, kernel), nn.Conv2d(12, 12, 1), nn.Flatten(), nn.Linear(12, 8)]
    return nn.Sequential(*layers).eval()


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 3, 3, generator=torch.Generator().manual_seed(1))


def calls(method, norm="full") -> Counter[tuple[str, str]]:
    """How often each function of lowrank is called in one compression, by module and name."""
    profile = cProfile.Profile()
    data = [images(40), images(40)]
    profile.runcall(compress, model(), method, example=(images(1),), norm=norm, data=data)
    found: Counter[tuple[str, str]] = Counter()
    for (path, _, name), (_, count, *_) in pstats.Stats(profile).stats.items():  # type: ignore
        found[path.rpartition("/lowrank/")[2].removesuffix(".py"), name] += count
    return found


@pytest.mark.parametrize(
    "method",
    [
        GPTQ(3, 12),
        Tucker2(compression_ratio=2),
        PruneAndQuantize(ALPS(0.5), GPTQ(3)),
        MixedAllocation([GPTQ(3, 12), GPTQ(5, 12)], Budget(ratio=5), NormError(), rivals=0),
    ],
    ids=repr,
)
def test_each_weight_moment_and_example_is_checked_once(method):
    found = calls(method)
    # What is not a model's own weight, such as what a rival is made of, is checked apart.
    own = found["decomposers/decomposer", "decompose"]
    assert found["approximation/weight_checks", "check_weight"] - own == LAYERS
    passes = 2 if isinstance(method, MixedAllocation) else 1  # Its choice has norms of its own.
    assert found["norms/checks", "check_moment"] >= LAYERS * passes
    assert found["measure/macs", "layer_macs"] == found["model/forward", "check_example"] == 2


def test_the_weight_of_the_first_step_of_a_chain_is_checked_once():
    found = calls(Chain([GPTQ(3, 12), Quantization(8)]))
    assert found["approximation/weight_checks", "check_weight"] == LAYERS
    assert found["decomposers/decomposer", "decompose"] == 0


def test_a_shape_is_checked_once_and_a_norm_once_for_all_weights():
    found = calls(GPTQ(3, 12))
    assert found["decomposers/decomposer", "check_shape"] == LAYERS
    assert found["decomposers/decomposer", "check_norms"] == 2 * 2  # The method's, and the walk's.


def test_a_moment_is_looked_through_for_what_is_not_finite_once():
    found = calls(GPTQ(3, 12), CalibratedNorms("full", damping=0.1))
    assert found["norms/checks", "check_moment"] == LAYERS
    assert found["norms/checks", "check_importance"] == 0
