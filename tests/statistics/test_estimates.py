"""Estimates and calibration errors agree with other ways of computing them."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from lowrank.statistics.calibration_error import calibration_error
from lowrank.statistics.estimates import averaged, weighted_mean


def drawn(count, seed):
    random = np.random.default_rng(seed)
    return random.random(count), (random.random(count) < 0.7).astype(float), np.arange(count)


@given(st.integers(2, 60), st.integers(0, 9))
def test_a_mean_has_the_usual_standard_error(count, seed):
    values, _, examples = drawn(count, seed)
    one = weighted_mean(values, np.full(count, 3.0), examples)
    assert one.value == pytest.approx(values.mean())
    assert one.error == pytest.approx(values.std(ddof=1) / np.sqrt(count))


def test_examples_without_weight_do_not_count():
    one = weighted_mean(np.array([1.0, 0.0, 99.0]), np.array([1.0, 1.0, 0.0]), np.arange(3))
    assert one.value == 0.5 and len(one.examples) == 2
    with pytest.raises(ValueError, match="above 0"):
        weighted_mean(np.ones(2), np.zeros(2), np.arange(2))


@given(st.integers(2, 40), st.integers(0, 9))
def test_shared_examples_of_several_models_count_once_and_own_ones_apart(count, seed):
    values, _, examples = drawn(count, seed)
    one = weighted_mean(values, np.ones(count), examples)
    assert averaged([one, one, one]).error == pytest.approx(one.error)
    other = weighted_mean(values[::-1].copy(), np.ones(count), examples + count)
    pooled = weighted_mean(np.tile(values, 2), np.ones(2 * count), np.arange(2 * count))
    assert averaged([one, other]).error == pytest.approx(pooled.error)


def test_a_difference_is_paired():
    values, right, examples = drawn(50, 0)
    both = [weighted_mean(one, np.ones(50), examples) for one in (values, right)]
    change = both[1] - both[0]
    assert change.error == pytest.approx((right - values).std(ddof=1) / np.sqrt(50))
    with pytest.raises(ValueError, match="same examples"):
        both[0] - weighted_mean(values, np.ones(50), examples + 1)


@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 9))
def test_the_calibration_error_is_that_of_torchmetrics(count, bins, seed):
    random = np.random.default_rng(seed)
    scores = torch.tensor(random.dirichlet(np.ones(4), count))
    target = torch.tensor(random.integers(0, 4, count))
    confidence, predicted = scores.max(dim=1)
    right = (predicted == target).double().numpy()
    own = calibration_error(confidence.numpy(), right, np.arange(count), bins)
    other = multiclass_calibration_error(scores, target, num_classes=4, n_bins=bins)
    assert own.value == pytest.approx(float(other), abs=1e-6)


@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 9))
def test_bins_of_equal_mass_are_the_quantiles_of_pandas(count, bins, seed):
    confidence, right, examples = drawn(count, seed)
    confidence = np.where(confidence > 0.8, 1.0, confidence)  # Saturated answers stay together.
    own = calibration_error(confidence, right, examples, bins, "mass")
    frame = pd.DataFrame({"gap": right - confidence})
    sums = frame.groupby(pd.qcut(confidence, bins, labels=False, duplicates="drop"), dropna=False)
    assert own.value == pytest.approx(sums["gap"].sum().abs().sum() / count)


def test_a_known_calibration_error():
    """Nine of ten answers at 0.9 are right, and one of two at 0.8."""
    confidence = np.array([0.9] * 10 + [0.8] * 2)
    right = np.array([1.0] * 9 + [0] + [1, 0])
    for equal in ("width", "mass"):
        one = calibration_error(confidence, right, np.arange(12), 10, equal)
        assert one.value == pytest.approx(2 / 12 * 0.3)


def test_the_standard_error_of_a_large_calibration_error_is_its_spread_over_samples():
    random = np.random.default_rng(0)
    found = []
    for _ in range(400):
        confidence = random.uniform(0.6, 1, 500)
        right = (random.random(500) < confidence - 0.3).astype(float)
        found.append(calibration_error(confidence, right, np.arange(500), 5))
    spread = np.std([one.value for one in found])
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize(
    "confidence, options, text",
    [
        ([0.5, 1.1], {}, "confidences in"),
        ([0.5, float("nan")], {}, "confidences in"),
        ([], {}, "at least one example"),
        ([0.5], {"bins": 0}, "bins"),
        ([0.5], {"equal": "size"}, "equal"),
    ],
)
def test_what_cannot_be_is_refused(confidence, options, text):
    with pytest.raises(ValueError, match=text):
        calibration_error(np.array(confidence), np.ones(len(confidence)), np.arange(9), **options)
