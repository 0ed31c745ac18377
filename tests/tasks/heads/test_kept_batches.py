"""Batches of the rows of a dataset: which are kept, and what of them."""

import torch

from lowrank.model.batch import Batch
from lowrank.tasks.heads.rows import KeptBatches, RowSplit


def split(made, most=2**20, count=10):
    def make(given, wanted, numbers):
        made.append(numbers)
        return Batch({"x": torch.tensor(given).float()}, torch.tensor(wanted))

    rows = list(range(count))
    return RowSplit(rows, rows, torch.arange(count), make, KeptBatches(most))


def inputs(batches):
    return torch.cat([batch.only for batch in batches]).tolist()


def test_a_second_pass_makes_nothing_again():
    made = []
    data = split(made)
    first, again = inputs(data.batches(4)), inputs(data.batches(4))
    assert first == again == list(range(10))
    assert made == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_parts_share_what_is_kept_by_the_rows_of_the_dataset():
    made = []
    data = split(made)
    half = data.part(torch.tensor([5, 3, 1]))
    assert inputs(half.batches(3)) == inputs(half.batches(3)) == [5, 3, 1]
    assert inputs(data.part(torch.tensor([1, 3, 5])).batches(3)) == [1, 3, 5]
    assert made == [[5, 3, 1], [1, 3, 5]]


def test_shuffled_batches_are_not_kept():
    made = []
    data = split(made)
    for seed in (1, 1):
        assert sorted(inputs(data.batches(5, shuffle_seed=seed))) == list(range(10))
    assert len(made) == 4


def test_no_more_bytes_are_kept_than_allowed():
    made = []
    data = split(made, most=100)  # Of 12 bytes each.
    for _ in range(2):
        inputs(data.batches(4))
    assert made == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [8, 9]]


def test_a_model_that_writes_into_its_inputs_changes_nothing():
    data = split([])
    for _ in range(2):
        (batch,) = data.batches(10)
        assert inputs([batch]) == list(range(10))
        batch.only.zero_()


def test_what_was_kept_without_gradients_can_be_trained_on():
    data = split([])
    with torch.inference_mode():
        inputs(data.batches(10))
    (batch,) = data.batches(10)
    weight = torch.ones((), requires_grad=True)
    (weight * batch.only * batch.targets).sum().backward()
    assert float(weight.grad) == sum(number**2 for number in range(10))  # type: ignore[arg-type]
