"""Methods at a share of the way to their levels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lowrank.allocation import (
    Budget,
    ByName,
    GlobalMagnitude,
    GlobalRank,
    MixedAllocation,
    NormError,
    Problem,
    Uniform,
)
from lowrank.allocation.analysis import dense_costs
from lowrank.allocation.eased import Eased
from lowrank.calibration import IdentityNorms
from lowrank.decomposers import (
    ALPS,
    GPTQ,
    Chain,
    CodebookQuantization,
    EntropyCodedQuantization,
    HalfPrecision,
    LoRA,
    LowRankPlusSparse,
    LowRankTimesSparse,
    MagnitudePruning,
    Monarch,
    PruneAndQuantize,
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
    LoRA(2, alpha=2, base=Quantization(4)),
]
BUDGETS = [
    Budget(ratio=6),
    Budget(bits_per_weight=4),
    Budget(limit=1000),
    Budget(limit=400, resource="params", of="layers"),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_at_the_end_of_the_way_it_is_the_method_itself(method):
    assert method.eased(1.0, side=20) == method


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
def test_at_the_end_of_the_way_it_is_the_choice_itself(budget):
    chosen = mixed(budget)
    assert chosen.eased(1.0, problem()) == chosen


def mixed(budget):
    return MixedAllocation([Quantization(2), Quantization(4), Uncompressed()], budget, NormError())


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
@given(st.floats(0.05, 1))
def test_the_cost_within_a_budget_falls_as_a_power_of_the_share(budget, share):
    """From the dense cost to the limit, for each way in which a budget is given."""
    costs = dense_costs(problem(), budget.resource)
    rest = 0 if budget.is_of_layers else costs.rest
    allowed = {
        at: mixed(budget).eased(at, problem())._limit(problem(), costs) + rest for at in (share, 1)
    }
    dense = costs.total + rest
    assert allowed[share] / dense == pytest.approx((allowed[1] / dense) ** share)


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
        (Monarch((2, 5), rank=2), Monarch((2, 5), rank=2)),
        (MagnitudePruning(pattern="2:4"), MagnitudePruning(pattern="3:4")),
        (MagnitudePruning(pattern="1:8"), MagnitudePruning(pattern="4:8")),
        (
            PruneAndQuantize(ALPS(pattern="2:4"), GPTQ(4)),
            PruneAndQuantize(ALPS(pattern="3:4"), GPTQ(6)),
        ),
        # A level at its default is one too, but not beside a ratio, which says the size of all.
        (LowRankTimesSparse(rank=4), LowRankTimesSparse(rank=12, sparsity=0.25)),
        (LowRankTimesSparse(compression_ratio=4), LowRankTimesSparse(compression_ratio=2.0)),
        # An adapter compresses nothing.
        (LoRA(2, alpha=2), LoRA(2, alpha=2)),
        (LoRA(2, alpha=2, base=Quantization(4)), LoRA(2, alpha=2, base=Quantization(6))),
        (HalfPrecision(), HalfPrecision()),
    ],
    ids=repr,
)
def test_half_of_the_way(method, half):
    assert method.eased(0.5, side=20) == half


@given(st.integers(2, 32).flatmap(lambda m: st.tuples(st.integers(1, m - 1), st.just(m))))
def test_n_of_m_falls_from_one_below_m(pattern):
    n, m = pattern
    method = MagnitudePruning(pattern=f"{n}:{m}")
    kept = [int(method.eased(k / 64, side=m).pattern.split(":")[0]) for k in range(65)]
    assert kept[0] == m - 1 and kept[-1] == n and kept == sorted(kept, reverse=True)
    assert set(kept) == set(range(n, m))


def test_the_way_to_a_rank_begins_at_the_shorter_side_of_the_method_s_own_view():
    """Of a kernel 6 × 4 × 3 × 3: 18 × 12 where it is seen as spatial, 6 × 36 by channels."""
    model = nn.Sequential(nn.Conv2d(4, 6, 3))
    chosen = Problem(model, find_sites(model), IdentityNorms())
    for view, start in (("spatial", 12), ("channel", 6)):
        plan = Eased(Uniform(TruncatedSVD(rank=2, view=view)), 0.0).allocate(chosen)
        assert plan.decomposers["0"].rank == start


@pytest.mark.parametrize("ratio", [2, 2.0])
def test_a_whole_ratio_has_fractions_on_its_way(ratio):
    way = MagnitudePruning(compression_ratio=ratio)
    assert way.eased(0.25, side=20).compression_ratio == pytest.approx(2**0.25)
    assert GlobalRank(ratio).eased(0.25, problem()).compression_ratio == pytest.approx(2**0.25)
    assert type(CodebookQuantization(1).eased(0.4, side=20).bits) is int


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_level_rises_along_the_way(first, second):
    first, second = sorted([first, second])
    for word, method in (("sparsity", MagnitudePruning(0.9)), ("rank", TruncatedSVD(rank=3))):
        early, late = (getattr(method.eased(s, side=20), word) for s in (first, second))
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
