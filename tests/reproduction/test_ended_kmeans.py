"""Bits of codes whose k-means ended early."""

import pytest

from experiments.reproduction import ended_kmeans
from experiments.reproduction.ended_kmeans import EndedKMeans, trained
from lowrank.decomposers import Chain, CodebookQuantization, MagnitudePruning
from lowrank.factorizations import prefix_code

PROGRAM = EndedKMeans("digits", [0], {"fc2": 0.75}, 4, [0, 3, 1000])


@pytest.fixture(scope="module")
def bits(tmp_path_factory):
    """The bits of a code, by iterations."""
    folder = tmp_path_factory.mktemp("cases")
    PROGRAM.run(folder)
    found = PROGRAM.load(folder)
    return dict(
        zip(found["iterations"], 8 * found["huffman_code_bytes"] / found["kept"], strict=True)
    )


def test_another_task_is_another_case(monkeypatch):
    before = list(PROGRAM.cases())
    assert before == list(PROGRAM.cases()) and len({one["task_config"] for one in before}) == 1
    config = ended_kmeans._config("digits")
    config.weights.recipe.epochs += 1
    monkeypatch.setattr(ended_kmeans, "_config", lambda task: config)
    assert all(one not in before for one in PROGRAM.cases())


def test_the_longer_it_runs_the_more_bits_codes_take(bits):
    assert 1 < bits[0] < bits[3] < bits[1000] <= 4


def test_at_its_end_they_are_those_of_the_codebook(bits):
    weight = trained("digits", 0).model().fc2.weight
    method = Chain([MagnitudePruning(0.75), CodebookQuantization(4, start="even")])
    codes = method.decompose(weight).values.current_codes().flatten().bincount(minlength=16)
    lengths = prefix_code.word_lengths(codes.tolist())
    taken = sum(int(c) * length for c, length in zip(codes, lengths, strict=True))
    assert bits[1000] == pytest.approx(taken / int(codes.sum()))
