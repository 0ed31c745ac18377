"""Hyperparameters that make no sense are refused when a method is made."""

from dataclasses import replace

import pytest
import torch

from lowrank.allocation import GlobalMagnitude, GlobalRank, KeptEnergy
from lowrank.calibration import CalibratedNorms
from lowrank.compression.compress import compress
from lowrank.decomposers import (
    Chain,
    LoRA,
    LowRankPlusSparse,
    LowRankTimesSparse,
    MagnitudePruning,
    Quantization,
    RandomPruning,
    RobustPCA,
    TruncatedSVD,
)
from lowrank.norms import Full, Identity
from lowrank.numerics.checks import (
    check_exactly_one,
    check_integer,
    check_none,
    check_number,
    check_one_of,
)

WITH_RANK = [
    TruncatedSVD(rank=4),
    LoRA(4, 8),
    LowRankPlusSparse(4, 0.9),
    LowRankTimesSparse(4),
]
NOT_A_RANK = [0, -1, 1.5, 4.0, "abc", "4", True]
NOT_A_NUMBER = ["0.5", [0.5], True, 1j]
FIELDS = [
    (TruncatedSVD(energy=0.5), "energy"),
    (TruncatedSVD(compression_ratio=2), "compression_ratio"),
    (MagnitudePruning(0.5), "sparsity"),
    (MagnitudePruning(compression_ratio=2), "compression_ratio"),
    (LowRankPlusSparse(2, 0.5), "sparsity"),
    (LowRankPlusSparse(2, 0.5), "rank_ratio"),
    (LowRankPlusSparse(compression_ratio=2), "compression_ratio"),
    (LowRankTimesSparse(2), "sparsity"),
    (LowRankTimesSparse(compression_ratio=2), "compression_ratio"),
    (LoRA(2, 4), "alpha"),
    (LoRA(2, 4), "dropout"),
    (RobustPCA(), "tolerance"),
    (RobustPCA(sparse_weight=1), "sparse_weight"),
]
INTEGERS = [
    (LowRankPlusSparse(2, 0.5), "iterations"),
    (LowRankTimesSparse(2), "iterations"),
    (RobustPCA(), "max_iterations"),
    (LoRA(2, 4), "seed"),
    (RandomPruning(0.5), "seed"),
]


def name(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("rank", NOT_A_RANK)
@pytest.mark.parametrize("method", WITH_RANK, ids=name)
def test_a_rank_that_no_matrix_has_is_refused_before_any_work(method, rank):
    with pytest.raises(ValueError, match=rf"^rank={rank!r} must be at least 1 and an integer$"):
        replace(method, rank=rank)


@pytest.mark.parametrize("value", NOT_A_NUMBER, ids=repr)
@pytest.mark.parametrize(("method", "field"), FIELDS)
def test_what_is_no_number_is_refused_by_name(method, field, value):
    with pytest.raises(ValueError) as error:
        replace(method, **{field: value})
    assert str(error.value).startswith(f"{field}={value!r} must be a number: it must ")


@pytest.mark.parametrize("value", [1.5, "3", True, None])
@pytest.mark.parametrize(("method", "field"), INTEGERS)
def test_what_is_no_integer_is_refused_by_name(method, field, value):
    with pytest.raises(ValueError, match=rf"^{field}={value!r} must be .*an integer$"):
        replace(method, **{field: value})


@pytest.mark.parametrize("alpha", [0, -1.0, float("inf"), float("nan")])
def test_alpha_is_finite_and_above_zero(alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha} must be above 0 and finite"):
        LoRA(4, alpha)


def test_a_base_is_a_decomposer():
    with pytest.raises(ValueError, match="base=4 must be a Decomposer: give an instance"):
        LoRA(4, 8, base=4)


@pytest.mark.parametrize("view", ["rows", 3, ["channel"]])
@pytest.mark.parametrize(
    "method", [TruncatedSVD(rank=2), RobustPCA(), LowRankPlusSparse(2, 0.5), GlobalRank(2)]
)
def test_a_view_is_one_of_the_known_ones(method, view):
    with pytest.raises(ValueError, match=r"view=.* must be one of \('channel'"):
        replace(method, view=view)


def test_allowed_values_pass():
    check_integer("rank", 1, least=1)
    check_integer("seed", -5)
    check_number("share", 0.5, "lie in (0, 1)", lambda x: 0 < x < 1)
    check_number("share", torch.finfo(torch.float32).eps, "be small", lambda x: x < 1)
    check_one_of("view", "channel", ("channel", "spatial"))


FULL = Full(torch.eye(15))


@pytest.mark.parametrize(
    "method",
    [
        MagnitudePruning(0.5),
        RandomPruning(0.5),
        Quantization(4),
        Chain([MagnitudePruning(0.5), Quantization(4)]),
        LoRA(2, 4, base=Quantization(4)),
        LoRA(2, 4, init="residual", base=Quantization(4)),
    ],
)
def test_a_norm_that_the_method_does_not_know_is_refused(method):
    weight = torch.randn(12, 15, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="cannot approximate in the norm .*it supports Identity"):
        method.decompose(weight, FULL)
    method.decompose(weight, Identity())


def test_an_exact_base_is_right_in_every_norm():
    weight = torch.randn(12, 15, generator=torch.Generator().manual_seed(0))
    form = LoRA(2, 4).decompose(weight, FULL)
    assert torch.equal(form.to_dense(), weight)


@pytest.mark.parametrize("method", [GlobalMagnitude(0.5), GlobalRank(2), KeptEnergy(2)])
def test_an_allocation_refuses_a_norm_that_it_does_not_know(method):
    model = torch.nn.Sequential(torch.nn.Linear(15, 12), torch.nn.Linear(12, 15))
    with pytest.raises(ValueError, match=f"{name(method)} cannot approximate in the norm Full"):
        compress(model, method, norm=CalibratedNorms("full"), data=[torch.randn(4, 15)])


@pytest.mark.parametrize("values", [(None, None, None), (1, 0.5, None), (1, 2, 3)])
def test_exactly_one_of_some_options_is_given(values):
    options = dict(zip(("rank", "energy", "ratio"), values, strict=True))
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    with pytest.raises(
        ValueError, match=f"A needs exactly one of rank, energy and ratio, got {given}"
    ):
        check_exactly_one("A", options)
    check_exactly_one("A", options | {"rank": None, "energy": 0.5, "ratio": None})


def test_none_of_some_options_is_given():
    check_none("A", {"rank": None, "ratio": None})
    with pytest.raises(ValueError, match="A needs none of rank and ratio, got rank=None, ratio=2"):
        check_none("A", {"rank": None, "ratio": 2})
