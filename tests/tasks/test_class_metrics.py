"""Measures of classes."""

import pytest
import torch

from lowrank.tasks.class_metrics import class_collection


@pytest.mark.parametrize("sizes", [[10, 10], [20], [1] * 20])
def test_measures_do_not_depend_on_which_of_them_agree_at_first(sizes):
    """The first ten are right at the first guess, so that all measures are equal on them."""
    right = torch.eye(10)
    second = right + 2 * right.roll(1, dims=1)
    metrics = class_collection(10, top=(1, 5))
    start = 0
    scores, labels = torch.cat([right, second]), torch.arange(10).repeat(2)
    for size in sizes:
        metrics.update(scores[start : start + size], labels[start : start + size])
        start += size
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["top1"] == 0.5 and found["top5"] == 1.0
