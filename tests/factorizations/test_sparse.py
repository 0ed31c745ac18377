import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import random, tensor_bytes
from safetensors.torch import load, save

from lowrank.factorizations import (
    BlockGrid,
    Dense,
    Layout,
    Product,
    Quantized,
    Scaled,
    Sparse,
    Sum,
    rebuild,
)


def random_sparse(rows, columns, block, density, seed=0):
    weight = random(rows, columns, seed=seed) + 3.0
    grid = BlockGrid((rows, columns), block)
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(grid.size, generator=generator) < density
    return weight, kept, Sparse.from_dense(weight, kept, block)


def reference(weight, kept, block):
    """The masked weight, block by block."""
    expected = torch.zeros_like(weight)
    height, width = block
    for row, column in kept.nonzero().tolist():
        rows = slice(row * height, (row + 1) * height)
        columns = slice(column * width, (column + 1) * width)
        expected[rows, columns] = weight[rows, columns]
    return expected


cases = {
    "rows": st.integers(1, 12),
    "columns": st.integers(1, 12),
    "block": st.tuples(st.integers(1, 12), st.integers(1, 12)),
    "density": st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    "seed": st.integers(0, 1000),
}


@given(**cases)
def test_kept_blocks_keep_their_values_and_the_rest_is_zero(rows, columns, block, density, seed):
    weight, kept, sparse = random_sparse(rows, columns, block, density, seed)
    expected = reference(weight, kept, block)
    assert torch.equal(sparse.to_dense(), expected)
    assert sparse.params == int(expected.count_nonzero())
    x = random(4, columns, seed=seed)
    assert torch.equal(sparse(x), torch.nn.functional.linear(x, expected))


@given(**cases)
def test_the_stored_tensors_bring_it_back_bit_for_bit(rows, columns, block, density, seed):
    _, _, sparse = random_sparse(rows, columns, block, density, seed)
    fresh = rebuild(sparse.config())
    fresh.load_state_dict(load(save(sparse.state_dict())))
    assert torch.equal(fresh.to_dense(), sparse.to_dense())
    assert tensor_bytes(fresh) == tensor_bytes(sparse)
    assert fresh.config() == sparse.config()


@given(**cases)
def test_the_smaller_index_is_stored(rows, columns, block, density, seed):
    _, kept, sparse = random_sparse(rows, columns, block, density, seed)
    index = tensor_bytes(sparse) - sparse.values.weight.nbytes
    bitmask, csr = -(-kept.numel() // 8), kept.shape[0] + 1 + int(kept.sum())
    assert index == min(bitmask, csr) == sparse.grid.index_bytes(int(kept.sum()))


@pytest.mark.parametrize(("columns", "width"), [(256, 1), (257, 2), (65536, 2), (65537, 4)])
def test_columns_are_stored_in_the_smallest_integers_that_hold_them(columns, width):
    weight = torch.zeros(2, columns)
    weight[1, -1] = 1.0
    sparse = Sparse.from_dense(weight, weight != 0)
    assert tensor_bytes(sparse) == 3 + width + 4
    fresh = rebuild(sparse.config())
    fresh.load_state_dict(load(save(sparse.state_dict())))
    assert torch.equal(fresh.to_dense(), weight)


def test_rows_of_equal_length_are_kept_as_rows():
    weight = random(6, 8)
    alternate = torch.arange(8) % 2 == 0
    assert Sparse.from_dense(weight, alternate.expand(6, 8)).values.shape == (6, 4)
    rows = torch.tensor([True, False, True, False, False, False])[:, None]
    assert Sparse.from_dense(weight, rows, (1, 8)).values.shape == (2, 8)
    ragged = torch.ones(6, 8, dtype=torch.bool).tril()
    assert Sparse.from_dense(weight, ragged).values.shape == (1, 21)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.5),
    ],
)
def test_training_moves_the_kept_weights_and_never_revives_a_pruned_one(optimizer):
    weight, kept, sparse = random_sparse(6, 9, (1, 1), 0.4)
    steps = optimizer(sparse.parameters())
    for seed in range(5):
        steps.zero_grad()
        sparse(random(3, 9, seed=seed)).square().sum().backward()
        steps.step()
    with torch.no_grad():
        trained = sparse(torch.eye(9, dtype=torch.float64)).T
    assert torch.equal(trained != 0, kept)
    assert not torch.isclose(trained[kept], weight[kept]).any()


def test_the_gradient_is_that_of_the_kept_entries():
    weight, kept, sparse = random_sparse(5, 7, (2, 3), 0.5)
    target = random(5, 7, seed=3)
    (sparse.to_dense() * target).sum().backward()
    mask = sparse.grid.expand(kept)
    assert torch.equal(sparse.values.weight.grad.flatten(), target[mask])


def test_values_may_be_quantized_and_are_counted_so():
    weight, kept, sparse = random_sparse(8, 16, (1, 1), 0.5)
    layout = Layout(sparse.values.shape, 8, "tensor")
    codes = torch.arange(sparse.params).view(sparse.values.shape)

    def quantize(leaf):
        assert leaf is sparse.values
        return Quantized(layout, codes, torch.tensor([0.5]), dtype=torch.float64)

    both = sparse.map_dense(quantize)
    expected = torch.zeros_like(weight)
    expected[kept] = (codes.double().flatten() - 128) * 0.5
    assert torch.equal(both.to_dense(), expected)
    assert both.params == sparse.params
    assert tensor_bytes(both) == 8 * 16 // 8 + sparse.params + 4
    assert not list(both.parameters())
    fresh = rebuild(both.config())
    fresh.load_state_dict(load(save(both.state_dict())))
    assert torch.equal(fresh.to_dense(), expected)
    assert "(bitmask), values Quantized" in both.describe()


def test_it_moves_and_copies():
    weight, kept, sparse = random_sparse(6, 9, (1, 1), 0.4)
    twin = copy.deepcopy(sparse)
    with torch.no_grad():
        sparse.values.weight.zero_()
    assert torch.equal(twin.to_dense(), reference(weight, kept, (1, 1)))
    half = twin.to(torch.bfloat16)
    assert half.to_dense().dtype == torch.bfloat16
    assert rebuild(half.config()).to_dense().dtype == torch.bfloat16
    meta = twin.to("meta")
    assert {t.device.type for t in [*meta.parameters(), *meta.buffers()]} == {"meta"}


def test_what_is_run_follows_every_change_of_the_tensors():
    # Memory freed by the first change is given out again by the second.
    for seed in range(30):
        _, _, sparse = random_sparse(64, 64, (1, 1), 0.5, seed)
        with torch.no_grad():
            sparse.derived()
            sparse.bfloat16()
            sparse.double()
            assert torch.equal(sparse.derived(), sparse.to_dense())


def test_it_prints_readably():
    weight = random(300, 784)
    kept = torch.arange(300 * 784).view(300, 784) % 10 == 0
    sparse = Sparse.from_dense(weight, kept)
    assert repr(sparse) == "Sparse 784→300, 90.0 % zeros (bitmask)"
    kept = torch.tensor([[True, False], [False, False]])
    blocks = Sparse.from_dense(random(32, 32), kept, (16, 16))
    assert repr(blocks) == "Sparse 32→32, 75.0 % zeros in blocks of 16x16 (bitmask)"


def test_a_block_without_weights_is_refused():
    with pytest.raises(ValueError, match=r"block\[0\]=0 must be at least 1 and an integer"):
        BlockGrid((3, 4), (0, 1))


def test_its_values_are_all_that_is_trained():
    _, _, sparse = random_sparse(6, 9, (1, 1), 0.4)
    assert isinstance(sparse.values, Dense)
    assert [name for name, _ in sparse.named_parameters()] == ["values.weight"]
    assert set(sparse.state_dict()) == {"bitmask", "values.weight"}


def test_the_density_is_that_of_the_positions_whatever_the_values_are():
    _, kept, sparse = random_sparse(10, 12, (1, 1), 0.4)
    count = int(kept.sum())
    assert sparse.density == count / 120
    factors = Product(Dense(random(1, 2)), Dense(random(2, count)))
    values = Sum(Dense(random(1, count)), Scaled(factors, 2.0))
    adapted = Sparse(sparse.grid, kept, values)
    assert adapted.params == count + 2 * (1 + count)
    assert adapted.density == count / 120


def test_values_of_rows_of_different_lengths_are_mapped_as_one_row_with_a_note():
    weight = random(6, 8)

    def mapped(kept, block=(1, 1)):
        return Sparse.from_dense(weight, kept, block).map_dense(lambda leaf: leaf).notes

    ragged = torch.ones(6, 8, dtype=torch.bool).tril()
    (note,) = mapped(ragged)
    assert note.startswith("rows keep different numbers of weights: the values were")
    twice = Sparse.from_dense(weight, ragged).map_dense(lambda leaf: leaf)
    assert twice.map_dense(lambda leaf: leaf).notes == twice.notes
    assert mapped(torch.arange(8).expand(6, 8) % 2 == 0) == ()
    assert mapped(torch.arange(6)[:, None] == 2, (1, 8)) == ()


@pytest.mark.parametrize("density", [0.5, 0.02], ids=["bitmask", "CSR"])
@pytest.mark.parametrize("training", [True, False])
def test_a_write_into_the_index_counts_at_once(density, training):
    weight, kept, sparse = random_sparse(16, 64, (1, 1), density)
    other = Sparse.from_dense(weight, kept.flip(1)).to_dense() != 0
    sparse.train(training)
    x = torch.eye(64, dtype=torch.float64)
    with torch.set_grad_enabled(training):
        sparse(x)
        for name, tensor in sparse.grid.encode(kept.flip(1)).items():
            sparse.get_buffer(name).copy_(tensor)
        matrix = sparse(x).T
    assert torch.equal(matrix != 0, other)
    again = rebuild(sparse.config())
    again.load_state_dict(sparse.state_dict())
    assert torch.equal(again.to_dense(), matrix)


def test_what_is_written_into_the_mask_is_not_kept():
    """No file holds it."""
    _, _, sparse = random_sparse(6, 9, (1, 1), 0.4)
    before = sparse.to_dense().clone()
    sparse.mask.fill_(True)
    assert torch.equal(sparse.to_dense(), before)


def test_an_index_of_another_number_of_weights_is_refused():
    _, _, sparse = random_sparse(6, 9, (1, 1), 0.4)
    sparse.get_buffer("bitmask").fill_(255)
    with pytest.raises(ValueError, match="keeps 54 weights, and it has"):
        sparse.to_dense()
    with pytest.raises(ValueError, match="keeps 54 weights, and it has"):
        sparse.check_stored()
