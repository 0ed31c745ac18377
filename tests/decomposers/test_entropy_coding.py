"""Coding changes the bytes of what a method makes, and nothing else."""

import pytest
import torch
from made_tensors import random

from lowrank.decomposers import (
    Chain,
    CodebookQuantization,
    EntropyCoding,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
)
from lowrank.decomposers.decomposer import Unfit
from lowrank.factorizations import Codebook, Sparse

PRUNED = Chain([MagnitudePruning(0.92), CodebookQuantization(5, start="even")])
WEIGHT = random(64, 200)


@pytest.mark.parametrize("coding", ["fixed", "huffman", "ans"])
def test_it_is_the_same_matrix_in_fewer_bytes(coding):
    plain, coded = PRUNED.decompose(WEIGHT), EntropyCoding(PRUNED, coding).decompose(WEIGHT)
    assert torch.equal(coded.to_dense(), plain.to_dense())
    assert coded.nbytes < 0.8 * plain.nbytes
    assert isinstance(coded, Sparse) and isinstance(coded.values, Codebook)


def test_inside_a_product_too():
    method = Chain([TruncatedSVD(rank=32), MagnitudePruning(0.9), CodebookQuantization(3)])
    plain, coded = method.decompose(WEIGHT), EntropyCoding(method).decompose(WEIGHT)
    assert torch.equal(coded.to_dense(), plain.to_dense())
    assert coded.nbytes < plain.nbytes and "huffman" in repr(coded.factors[0])


def test_what_coding_would_enlarge_stays_as_it_was():
    weight = random(4, 6)
    method = Chain([MagnitudePruning(0.5), CodebookQuantization(8)])
    coded = EntropyCoding(method).decompose(weight)
    # Twelve codes: the table alone would take 128 bytes.
    assert coded.nbytes == method.decompose(weight).nbytes
    assert "huffman" not in repr(coded)


def test_what_has_nothing_to_code_has_a_note():
    coded = EntropyCoding(Quantization(4)).decompose(WEIGHT)
    assert coded.notes == ("it has neither a codebook nor pruned weights: nothing was coded",)
    assert EntropyCoding(PRUNED).decompose(WEIGHT).notes == PRUNED.decompose(WEIGHT).notes


def test_even_levels_take_fewer_bits_by_a_code_and_have_a_larger_error():
    def made(start):
        method = CodebookQuantization(6, start=start)
        return EntropyCoding(method).decompose(WEIGHT)

    def error(form):
        return float((form.to_dense().detach() - WEIGHT).norm())

    best, even = made("best"), made("even")
    assert even.nbytes < best.nbytes and error(even) > error(best)


def test_a_level_out_of_reach_has_its_nearest():
    with pytest.raises(Unfit) as caught:
        EntropyCoding(MagnitudePruning(0.999)).decompose(random(4, 6))
    assert caught.value.nearest == EntropyCoding(MagnitudePruning(1 - 1 / 24))
    assert EntropyCoding(MagnitudePruning(0.9)).level == 0.9
