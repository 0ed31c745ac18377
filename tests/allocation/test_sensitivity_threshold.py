"""One threshold on the loss of every layer."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lowrank.allocation import Budget, MixedAllocation, NormError, SensitivityThreshold, grid
from lowrank.allocation.sensitivity_threshold import picks_below
from lowrank.compression.compress import compress
from lowrank.decomposers import TruncatedSVD
from lowrank.measure.size import nbytes
from lowrank.numerics.knapsack import Items

RANKS = grid(TruncatedSVD, {"rank": [1, 2, 4, 8, 12]})


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())


@pytest.mark.parametrize("ratio", [1.3, 2, 4, 8])
def test_it_takes_the_lowest_threshold_that_meets_the_budget(model, ratio):
    rule = SensitivityThreshold(RANKS, Budget(ratio=ratio), NormError(relative=True))
    result = compress(model, rule)
    assert nbytes(result.model) <= nbytes(model) / ratio
    said = result.allocation
    # Any lower threshold would need more than is allowed: some layer sits at the threshold, and
    # its next larger candidate does not fit.
    errors = [layer.relative_error**2 for layer in result.layers]
    assert max(errors) == pytest.approx(said["threshold"], rel=1e-4)


def test_the_knapsack_never_loses_more(model):
    for ratio in (1.5, 2, 3, 5, 8):
        settings = (RANKS, Budget(ratio=ratio), NormError(relative=True))
        threshold = compress(model, SensitivityThreshold(*settings)).allocation["loss"]
        mix = compress(model, MixedAllocation(*settings, rivals=0)).allocation["loss"]
        assert mix <= threshold * (1 + 1e-9)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8))
def test_each_takes_the_cheapest_below_the_threshold(pairs):
    costs, losses = (np.array(values) for values in zip(*pairs, strict=True))
    items = Items(["a"], [costs.astype(np.int64)], [losses.astype(np.float64)])
    for threshold in range(10):
        (pick,) = picks_below(items, threshold)
        below = [i for i in range(len(pairs)) if losses[i] <= threshold]
        if below:
            assert losses[pick] <= threshold
            assert costs[pick] == min(costs[i] for i in below)
        else:
            assert losses[pick] == losses.min()
