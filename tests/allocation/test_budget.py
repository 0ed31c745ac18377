"""What a compressed model may take."""

import dataclasses
import json
import math

import numpy as np
import pytest
from torch import nn

from lowrank.allocation import Budget
from lowrank.model.select import Select


@pytest.fixture
def sites():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10))
    return Select().split(model)[0]


@pytest.mark.parametrize(
    ("budget", "allowed"),
    [
        (Budget(ratio=4), 1600 / 4 + 120 / 4 - 120),
        (Budget(ratio=4, of="layers"), 400),
        (Budget(limit=1000), 880),
        (Budget(limit=1000, of="layers"), 1000),
        (Budget(bits_per_weight=2.5), 125),
    ],
)
def test_the_allowance_of_the_selected_layers(sites, budget, allowed):
    assert budget.allowance(sites, layers=1600, rest=120) == pytest.approx(allowed)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "Budget needs exactly one of ratio, limit and bits_per_weight, got ratio=None, "),
        ({"ratio": 2, "limit": 10}, "exactly one of .*, got ratio=2, limit=10, bits_per_weight=N"),
        ({"ratio": 0.5}, "ratio=0.5 must be at least 1"),
        ({"ratio": math.nan}, "ratio=nan must be at least 1 and finite"),
        ({"limit": -3}, "limit=-3 must be above 0 and finite"),
        ({"limit": "8"}, "limit='8' must be a number"),
        ({"bits_per_weight": 4, "resource": "macs"}, "a budget of bytes, not of macs"),
        ({"ratio": 2, "resource": "joules"}, "resource='joules'"),
        ({"ratio": 2, "of": "head"}, "of='head'"),
    ],
)
def test_a_budget_that_cannot_be(settings, text):
    with pytest.raises(ValueError, match=text):
        Budget(**settings)


def test_a_limit_that_the_rest_of_the_model_exceeds(sites):
    with pytest.raises(
        ValueError,
        match="never compressed .* alone takes 5,000 bytes, a limit of 5,000 bytes: give",
    ):
        Budget(limit=4000).allowance(sites, layers=1600, rest=5000)


def test_numbers_of_numpy_are_plain_numbers_in_a_record():
    for given in (np.float32(4.5), np.float64(4.5)):
        assert json.dumps(dataclasses.asdict(Budget(bits_per_weight=given))).count("4.5") == 1
    assert Budget(limit=np.int64(300)).describe() == "300 bytes of the model"
