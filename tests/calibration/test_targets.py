"""Targets that are no tensors stay with their examples, whatever batches these run in."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from lowrank.calibration import TaskData
from lowrank.calibration.task_pieces import task_pieces
from lowrank.tasks import Batch, Split, Task

LENGTHS = [3, 5, 3, 1, 5, 3, 2]
TEXTS = [f"text {number}" for number in range(len(LENGTHS))]


@dataclass(frozen=True)
class Spoken(Split):
    """Rows of numbers that all are the number of the row, padded with zeros."""

    cut: int = 0

    def __len__(self):
        return len(LENGTHS)

    def batch(self, rows):
        longest = max(LENGTHS[row] for row in rows)
        real = torch.stack([torch.arange(longest) < LENGTHS[row] for row in rows])
        ids = (rows[:, None] + 1.0) * real
        texts = [TEXTS[row] for row in rows]
        return Batch((ids[..., None],), {"text": texts, "row": rows}, {0: real[:, self.cut :]})


@dataclass(frozen=True)
class Spelling(Task):
    seed: int = 0
    device: str = "cpu"
    name: str = "spelling"
    architecture: str = "none"
    cut: int = 0

    def network(self):
        return nn.Linear(1, 1)

    model = network

    def split(self, name):
        return Spoken(self.cut)

    def loss(self, outputs, targets):
        return outputs.mean() * len(targets["text"])

    def metrics(self):
        raise NotImplementedError


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_every_example_runs_once_with_its_own_targets(batch_size):
    task = Spelling()
    grouped = task_pieces(task, task.split("train"), batch_size, 3, len(LENGTHS))
    for pieces in (
        [p for group in grouped for p in group],
        list(TaskData(task, batch_size).pieces(task.network())),
    ):
        seen = []
        for piece in pieces:
            batch = piece.batch
            assert piece.examples == len(batch) == len(batch.targets["text"])
            assert task.predictions(batch).tolist() == [1] * piece.examples
            for ids, text, row in zip(
                batch.only, *map(batch.targets.get, ("text", "row")), strict=True
            ):
                assert ids.flatten().tolist() == [int(row) + 1.0] * LENGTHS[row]
                assert text == TEXTS[row]
                seen.append(text)
        assert sorted(seen) == TEXTS


def test_real_positions_of_another_shape_are_refused():
    with pytest.raises(
        ValueError, match=r"`real` of input 0 has shape \(4, 4\); it must be .* \(4, 5, 1\)"
    ):
        list(TaskData(Spelling(cut=1), 4).pieces(nn.Linear(1, 1)))
