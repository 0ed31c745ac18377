import pytest
import torch

from lowrank.tasks.waves import at_peak, padded


def test_zeros_come_at_the_end():
    assert padded(torch.tensor([1.0, 2.0]), 4).tolist() == [1, 2, 0, 0]
    assert padded(torch.ones(3, 2), 2).tolist() == torch.ones(3, 2).tolist()


def test_a_wave_that_is_longer_is_not_cut():
    with pytest.raises(ValueError, match="a wave of 5 samples is longer than samples=4"):
        padded(torch.zeros(5), 4)


def test_the_largest_value_is_the_peak():
    found = at_peak(torch.tensor([0.1, -0.5, 0.2]))
    torch.testing.assert_close(found, torch.tensor([0.19, -0.95, 0.38]))


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [1.0, float("inf")], [float("nan"), 1.0]])
def test_a_wave_without_loudness(values):
    with pytest.raises(ValueError, match="has no loudness"):
        at_peak(torch.tensor(values))
