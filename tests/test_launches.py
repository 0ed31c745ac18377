"""Decompositions dispatch few operations a column, and wait no more often for more columns."""

import pytest

from experiments.benchmarks.launches import METHODS, launches

# Operations for each column of a matrix 512 × 512 at most.
MOST = {
    "scale search": 2,
    "hqq": 3,
    "gptq": 16,
    "gptq, zero points": 16,
    "awq": 40,
    "sparsegpt": 8,
    "sparsegpt 2:4": 8,
    "alps": 8,
    "svd_llm": 1,
    "entropy coded": 60,
    "low rank + sparse": 8,
    "low rank x sparse": 10,
}


@pytest.mark.parametrize("name", MOST)
def test_few_launches_for_each_column(name):
    assert launches(name, 512).operations <= 512 * MOST[name]


@pytest.mark.parametrize("name", [name for name in MOST if name not in ("awq", "hqq")])
def test_waits_do_not_grow_with_the_columns(name):
    # From 384 on, the checks of eigen-decompositions wait, some times each.
    few, many = launches(name, 400).waits, launches(name, 512).waits
    # Searches take a few turns more or less.
    assert many <= few + 4 and few > 0


def test_every_limit_is_of_a_method():
    assert MOST.keys() <= METHODS.keys()
