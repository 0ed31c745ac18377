"""Positions by the gaps between them, in Sparse and alone."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import random, tensor_bytes
from safetensors.torch import load, save

from lowrank.factorizations import BlockGrid, Layout, Quantized, Sparse, rebuild
from lowrank.factorizations.gap_index import GapIndex
from lowrank.factorizations.packing import unpack

FORMS = {
    "rows": st.integers(1, 9),
    "columns": st.integers(1, 70),
    "density": st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    "bits": st.integers(1, 8),
    "coding": st.sampled_from(["fixed", "huffman", "ans"]),
    "seed": st.integers(0, 100),
}


def mask(rows, columns, density, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, columns, generator=generator) < density


def by_hand(kept, bits):
    """Block after block: a gap is counted up, and given out when it is full or ends."""
    symbols, gap = [], 0
    pending = []
    for is_kept in kept.flatten().tolist():
        if is_kept:
            symbols += [*pending, gap]
            pending, gap = [], 0
            continue
        gap += 1
        if gap == 2**bits - 1:
            pending.append(gap)
            gap = 0
    return symbols


@given(**FORMS)
def test_the_mask_comes_back(rows, columns, density, bits, coding, seed):
    kept = mask(rows, columns, density, seed)
    form, index = GapIndex.of(BlockGrid((rows, columns)), kept, bits, coding)
    assert torch.equal(form.decode(index), kept)
    sizes = {name: (len(tensor), tensor.dtype) for name, tensor in index.items()}
    assert {n: (len(t), t.dtype) for n, t in form.blank().items()} == sizes


@given(**FORMS)
def test_the_symbols_are_those_of_the_definition(rows, columns, density, bits, coding, seed):
    del coding
    kept = mask(rows, columns, density, seed)
    form, index = GapIndex.of(BlockGrid((rows, columns)), kept, bits, "fixed")
    assert unpack(index["gaps"], bits, form.entries).tolist() == by_hand(kept, bits)


def test_a_long_gap_is_padded():
    """Weights 1, 4 and 15 of 16: figure 2 of the paper, with gaps of 3 bits."""
    kept = torch.zeros(1, 16, dtype=torch.bool)
    kept[0, [1, 4, 15]] = True
    form, index = GapIndex.of(BlockGrid((1, 16)), kept, 3, "fixed")
    # Ten pruned ones lie before the last: the padding stands for 7 of them.
    assert unpack(index["gaps"], 3, form.entries).tolist() == [1, 2, 7, 3]


@given(**FORMS)
def test_a_sparse_matrix_is_stored_with_it(rows, columns, density, bits, coding, seed):
    weight = random(rows, columns, seed=seed) + 3.0
    plain = Sparse.from_dense(weight, mask(rows, columns, density, seed))
    sparse = plain.with_gaps(bits, coding)
    assert torch.equal(sparse.to_dense(), plain.to_dense())
    fresh = rebuild(sparse.config())
    fresh.load_state_dict(load(save(sparse.state_dict())))
    fresh.check_stored()
    assert torch.equal(fresh.to_dense(), plain.to_dense())
    assert fresh.config() == sparse.config() and fresh.describe() == sparse.describe()
    assert tensor_bytes(fresh) == tensor_bytes(sparse)
    assert torch.equal(copy.deepcopy(sparse).to_dense(), plain.to_dense())


def test_quantized_values_keep_the_index():
    sparse = Sparse.from_dense(random(8, 40), mask(8, 40, 0.1, 0)).with_gaps(4, "huffman")
    layout = Layout(sparse.values.shape, 8, "tensor")
    codes = torch.zeros(layout.shape, dtype=torch.int64)
    both = sparse.map_dense(lambda leaf: Quantized(layout, codes, torch.ones(1)))
    assert "gaps of 4 bits, huffman" in both.describe()
    assert set(both.state_dict()) == {"gaps", "gap_table", "values.codes", "values.scale"}


def test_it_is_smaller_than_a_bitmask_and_CSR_where_few_are_kept():
    plain = Sparse.from_dense(random(300, 784), mask(300, 784, 0.08, 0))
    index = plain.grid.index_bytes(plain.params)
    taken = {
        coding: plain.with_gaps(5, coding).nbytes - plain.values.nbytes
        for coding in ("fixed", "huffman", "ans")
    }
    assert taken["huffman"] < taken["fixed"] < 0.45 * index
    # Of gaps of independent positions the entropy is H(p)/p = 5.03 bits for each.
    assert 8 * taken["huffman"] / plain.params == pytest.approx(5.03, abs=0.1)


def test_gaps_written_anew_count_at_once_and_wrong_ones_are_refused():
    weight, kept = random(8, 40), mask(8, 40, 0.3, 0)
    sparse = Sparse.from_dense(weight, kept).with_gaps(8)
    sparse.get_buffer("gaps")[0] += 1
    moved = sparse.to_dense() != 0
    assert int(moved.sum()) == int(kept.sum()) and not torch.equal(moved, kept)
    sparse.get_buffer("gaps")[1] = 254
    with pytest.raises(ValueError, match=r"reach block \d+, and it has 320"):
        sparse.to_dense()
    with pytest.raises(ValueError, match=r"reach block \d+, and it has 320"):
        sparse.check_stored()
