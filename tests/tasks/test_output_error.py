"""How far two models are apart where outputs are no scores of classes."""

from typing import Any

import pytest
import torch

from lowrank.model.batch import Batch
from lowrank.tasks.agreement import output_error
from lowrank.tasks.class_scores import ClassScores

REAL = torch.tensor([[True, True, False], [True, False, False]])
PADDED = Batch((torch.zeros(2, 3),), real={0: REAL})


def test_it_is_the_mean_over_all_outputs_of_an_example():
    dense = {"a": torch.zeros(2, 3), "b": (torch.zeros(2), torch.zeros(2, dtype=torch.int64))}
    ours = {"a": torch.ones(2, 3), "b": (torch.full((2,), 3.0), torch.ones(2, dtype=torch.int64))}
    found = output_error(ours, dense, Batch((torch.zeros(2),)))
    torch.testing.assert_close(found, torch.full((2,), (3 + 9) / 4, dtype=torch.float64))


def test_complex_outputs_count():
    found = output_error(torch.full((2, 1), 3 + 4j), torch.zeros(2, 1) * 1j, PADDED)
    assert found.tolist() == [25, 25]


def test_padding_does_not_count():
    ours = torch.where(REAL, 2.0, 100.0)[..., None].expand(2, 3, 4)
    assert output_error(ours, torch.zeros(2, 3, 4), PADDED).tolist() == [4, 4]
    pooled = output_error(torch.full((2, 4), 2.0), torch.zeros(2, 4), PADDED)
    assert pooled.tolist() == [4, 4]


def test_of_scores_padding_does_not_count_either():
    task: Any = type("Scores", (), {})()
    random = torch.Generator().manual_seed(0)
    ours, dense = (torch.randn(2, 5, 3, generator=random) for _ in range(2))
    found = ClassScores.agreement(task, ours, dense, PADDED)
    whole = ClassScores.agreement(task, ours, dense, Batch((torch.zeros(2),)))
    torch.testing.assert_close(found["kl"], whole["kl"][REAL])
    expected = whole["kl"][REAL].mean()
    torch.testing.assert_close(ClassScores.distance(task, ours, dense, PADDED).double(), expected)


def test_outputs_without_numbers_cannot_be_compared():
    with pytest.raises(ValueError, match="hold no floating-point tensor .* define `agreement`"):
        output_error(torch.ones(2, 3).long(), torch.ones(2, 3).long(), PADDED)
