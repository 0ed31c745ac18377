"""Methods at a share of the way to their levels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lowrank.allocation import Budget, ByName, GlobalMagnitude, MixedAllocation, Problem, Uniform
from lowrank.allocation.eased import Eased, eased
from lowrank.calibration import IdentityNorms
from lowrank.decomposers import (
    Chain,
    CodebookQuantization,
    EntropyCodedQuantization,
    LowRankPlusSparse,
    MagnitudePruning,
    Monarch,
    Quantization,
    TruncatedSVD,
    Uncompressed,
)
from lowrank.model.sites import find_sites

MODEL = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))


def problem():
    return Problem(MODEL, find_sites(MODEL), IdentityNorms())


METHODS = [
    MagnitudePruning(0.9),
    MagnitudePruning(compression_ratio=8),
    TruncatedSVD(rank=3),
    TruncatedSVD(energy=0.7),
    LowRankPlusSparse(2, 0.9),
    Chain([MagnitudePruning(0.8), Quantization(4)]),
    EntropyCodedQuantization(2.5),
    Monarch(compression_ratio=4),
    Uncompressed(),
    MagnitudePruning(pattern="2:4"),
    MixedAllocation([Quantization(4), Uncompressed()], Budget(ratio=6)),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_at_the_end_of_the_way_it_is_the_method_itself(method):
    assert eased(method, 1.0, side=20) == method


@pytest.mark.parametrize(
    "method, half",
    [
        (MagnitudePruning(0.9), MagnitudePruning(0.45)),
        (MagnitudePruning(compression_ratio=9), MagnitudePruning(compression_ratio=3.0)),
        (TruncatedSVD(rank=4), TruncatedSVD(rank=12)),
        (CodebookQuantization(2), CodebookQuantization(5)),
        (LowRankPlusSparse(4, 0.8), LowRankPlusSparse(12, 0.4)),
        (
            Chain([MagnitudePruning(0.8), Quantization(4)]),
            Chain([MagnitudePruning(0.4), Quantization(6)]),
        ),
        # One block in each row is its default, and no level.
        (Monarch(compression_ratio=4), Monarch(compression_ratio=2.0)),
        (MagnitudePruning(pattern="2:4"), MagnitudePruning(pattern="2:4")),
        (GlobalMagnitude(0.5), GlobalMagnitude(0.25)),
    ],
    ids=repr,
)
def test_half_of_the_way(method, half):
    assert eased(method, 0.5, side=20) == half


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_level_rises_along_the_way(first, second):
    first, second = sorted([first, second])
    for word, method in (("sparsity", MagnitudePruning(0.9)), ("rank", TruncatedSVD(rank=3))):
        early, late = (getattr(eased(method, s, side=20), word) for s in (first, second))
        assert early <= late if word == "sparsity" else early >= late


def test_each_weight_has_its_own_way_to_a_rank():
    plan = Eased(Uniform(TruncatedSVD(rank=4)), 0.5).allocate(problem())
    assert plan.decomposers == {"0": TruncatedSVD(rank=12), "1": TruncatedSVD(rank=7)}


def test_an_allocation_with_a_level_eases_that():
    plan = Eased(GlobalMagnitude(0.8), 0.5).allocate(problem())
    assert plan == GlobalMagnitude(0.4).allocate(problem())


def test_choices_by_name_stay_so():
    named = ByName({"1": MagnitudePruning(0.5)})
    method = Eased(named, 0.5)
    assert method.allocate(problem()).decomposers == {"1": MagnitudePruning(0.25)}
    assert method.rules(find_sites(MODEL)) == named.rules(find_sites(MODEL))
    assert method.family == "sparse" and not method.needs_data


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), True])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match="share=.* must"):
        Eased(Uniform(MagnitudePruning(0.5)), share)
