"""The outcomes that reports hold: as many as they may, and those that are on record now."""

import os

import made_outcomes
import made_records
import pytest

from lowrank.records import outcomes, store
from lowrank.reporting.examples import HeldOutcomes

COUNT = 8


def made(seed, n=200):
    return made_outcomes.images(made_records.record(seed=seed), n)


@pytest.fixture
def paths(tmp_path):
    return [str(store.save(made(seed), tmp_path)) for seed in range(COUNT)]


@pytest.fixture
def reads(monkeypatch):
    """The paths that were read from disk, in order."""
    found, read = [], outcomes.of_record
    monkeypatch.setattr(outcomes, "of_record", lambda path: found.append(path) or read(path))
    return found


def test_what_fits_is_read_once(paths, reads):
    held = HeldOutcomes(10**9)
    for _ in range(3):
        for path in paths:
            assert len(held.read(path)) == 200
    assert reads == paths


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_no_more_is_held_than_may_be_and_some_of_it_helps(paths, reads, share):
    size = outcomes.of_record(paths[0]).nbytes
    reads.clear()
    held = HeldOutcomes(int(share * COUNT * size))
    for _ in range(50):
        for path in paths:
            assert held.read(path).nbytes == size
            assert sum(one.nbytes for _, one in held.held.values()) <= held.most
    # Were the last that were read held, each would be read each time.
    assert COUNT < len(reads) < (1 - share / 2) * 50 * COUNT


def test_what_alone_is_too_large_is_read_and_not_held(paths, reads):
    held = HeldOutcomes(outcomes.of_record(paths[0]).nbytes - 1)
    reads.clear()
    for _ in range(2):
        held.read(paths[0])
    assert reads == [paths[0]] * 2 and not held.held


def test_other_records_are_held_in_the_end(paths, reads):
    held = HeldOutcomes(4 * outcomes.of_record(paths[0]).nbytes)
    for path in [*paths[:4], *paths[4:] * 100]:
        held.read(path)
    assert set(held.held) == set(paths[4:])


def test_outcomes_that_were_replaced_are_read_again(paths, tmp_path):
    held = HeldOutcomes(10**9)
    assert len(held.read(paths[0])) == 200
    again = store.save(made(0, 300), tmp_path)
    assert str(again) == paths[0] and len(held.read(paths[0])) == 300
    os.remove(again.parent / f"{again.stem}.outcomes.safetensors")
    with pytest.raises(ValueError, match="not beside it"):
        held.read(paths[0])


def test_nbytes_are_those_of_all_arrays(paths):
    found = outcomes.of_record(paths[0])
    # Examples, weights, and of 200 examples two dense values and three compressed ones.
    assert found.nbytes == 200 * 8 * 7
