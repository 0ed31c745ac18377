"""Selection without sorting selects what sorting does."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank.numerics.ranking import descending, largest, largest_entries


@settings(max_examples=200)
@given(st.data(), st.integers(1, 4), st.integers(1, 12))
def test_the_largest_are_the_first_in_descending_order(data, rows, columns):
    """Few different values, so that many are equal."""
    values = st.sampled_from([0.0, 0.5, 1.0, 2.0, float("inf"), 1e-300])
    scores = torch.tensor(
        [[data.draw(values) for _ in range(columns)] for _ in range(rows)], dtype=torch.float64
    )
    count = data.draw(st.integers(0, columns))
    expected = torch.zeros_like(scores, dtype=torch.bool)
    expected.scatter_(1, descending(scores)[:, :count], True)
    assert torch.equal(largest(scores, count), expected)


def test_of_entries_of_equal_magnitude_the_first_are_taken():
    matrix = torch.tensor([[1.0, -2.0, 2.0], [-2.0, 0.5, 2.0]])
    kept = largest_entries(matrix, 3)
    assert torch.equal(kept, torch.tensor([[False, True, True], [True, False, False]]))
    assert int(largest_entries(matrix, 6).sum()) == 6
