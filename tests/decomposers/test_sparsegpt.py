import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random
from safetensors.torch import load, save

from lowrank.decomposers import MagnitudePruning, SparseGPT
from lowrank.factorizations import rebuild
from lowrank.norms import Diagonal, Full, Identity


def correlated(samples, columns, seed=0):
    """Inputs that share much: fewer causes than inputs, and some noise."""
    causes = random(samples, max(1, columns // 2), seed=seed)
    mixing = random(max(1, columns // 2), columns, seed=seed + 1)
    return causes @ mixing + 0.3 * random(samples, columns, seed=seed + 2)


def full_norm(inputs, rows=None, damping=0.0):
    return Full(inputs.T @ inputs / len(inputs), rows, damping)


def by_elimination(weight, norm, method, blocks):
    """OBS one column after the other: the inverse of what is left, formed anew for each."""
    moment, importance = norm.second_moment(weight), norm.row_weights(weight).expand(len(weight))
    weight, kept = weight.clone(), torch.ones_like(weight, dtype=torch.bool)
    columns = weight.shape[1]

    def inverse_from(column):
        return torch.linalg.inv(moment[column:, column:])

    for first, last, count in blocks:
        losses = torch.stack(
            [
                importance * weight[:, j] ** 2 / inverse_from(j)[0, 0] if j < columns else None
                for j in range(first, last)
            ],
            dim=1,
        )
        competing = (
            losses if method.within == "row" or ":" in method.pattern else losses.view(1, -1)
        )
        mask = torch.zeros_like(competing, dtype=torch.bool)
        mask.scatter_(1, competing.topk(count, dim=1).indices, True)
        kept[:, first:last] = mask.view(losses.shape)
        for j in range(first, last):
            inverse = inverse_from(j)
            lost = weight[:, j] * ~kept[:, j]
            weight[:, j:] -= (lost / inverse[0, 0])[:, None] * inverse[0]
    return weight * kept, kept


def blocks_of(method, shape):
    """First column, last column and survivors in each set of every block."""
    rows, columns = shape
    if ":" in method.pattern:
        n, m = map(int, method.pattern.split(":"))
        ends = [min(first + m, columns) for first in range(0, columns, m)]
        return [(end - width, end, -(-n * width // m)) for end, width in widths(ends)]
    size = columns if method.within == "row" else rows * columns
    total = size - round(method.sparsity * size)
    width = method.block_size
    ends = [min(first + width, columns) for first in range(0, columns, width)]
    return [
        (end - width, end, total * end // columns - total * (end - width) // columns)
        for end, width in widths(ends)
    ]


def widths(ends):
    return [(end, end - before) for before, end in zip([0, *ends], ends, strict=False)]


methods = st.one_of(
    st.builds(
        SparseGPT,
        sparsity=st.floats(0.05, 0.8),
        within=st.sampled_from(["matrix", "row"]),
        block_size=st.integers(1, 20),
        update=st.just("sequential"),
    ),
    st.builds(
        SparseGPT,
        pattern=st.sampled_from(["2:4", "1:3", "4:8"]),
        update=st.just("sequential"),
    ),
)


@settings(max_examples=60)
@given(methods, st.tuples(st.integers(1, 6), st.integers(2, 17)), st.booleans(), st.integers(0, 99))
def test_it_is_the_elimination_of_one_column_after_the_other(method, shape, by_rows, seed):
    weight = random(*shape, seed=seed)
    rows = random(shape[0], seed=seed + 5).square() if by_rows else None
    norm = full_norm(correlated(50, shape[1], seed=seed + 1), rows)
    try:
        form = method.decompose(weight, norm)
    except ValueError as error:
        assert "keeps none of" in str(error)
        return
    values, kept = by_elimination(weight, norm, method, blocks_of(method, shape))
    assert torch.equal(form.mask, kept)
    torch.testing.assert_close(form.to_dense().detach(), values, rtol=1e-8, atol=1e-8)
    assert form.notes == ()


def test_the_blocks_in_which_errors_are_added_change_nothing(monkeypatch):
    weight, norm = random(12, 50), full_norm(correlated(80, 50))
    for options in ({"sparsity": 0.6, "block_size": 7}, {"pattern": "2:4"}):
        method = SparseGPT(**options, update="sequential")
        at_once = method.decompose(weight, norm).to_dense()
        monkeypatch.setattr("lowrank.numerics.elimination.BLOCK", 3)
        torch.testing.assert_close(method.decompose(weight, norm).to_dense(), at_once)
        monkeypatch.undo()


@st.composite
def norms(draw, columns):
    """Full norms of every kind: of few samples or many, with inputs that are always zero."""
    inputs = correlated(draw(st.integers(1, 40)), columns, seed=draw(st.integers(0, 1000)))
    inputs = inputs * 10.0 ** random(columns, seed=draw(st.integers(0, 1000)))
    inputs[:, list(draw(st.sets(st.integers(0, columns - 1), max_size=columns - 1)))] = 0
    return full_norm(inputs, damping=draw(st.sampled_from([0.0, 0.01])))


@settings(max_examples=60)
@given(st.data(), methods, st.tuples(st.integers(1, 6), st.integers(2, 17)), st.integers(0, 99))
def test_the_exact_update_is_never_worse_than_the_sequential_one(data, method, shape, seed):
    weight, norm = random(*shape, seed=seed), data.draw(norms(shape[1]))
    options = {name: getattr(method, name) for name in ("sparsity", "pattern", "within")}
    try:
        sequential = method.decompose(weight, norm)
    except ValueError as error:
        assert "keeps none of" in str(error)
        return
    exact = SparseGPT(**options, block_size=method.block_size).decompose(weight, norm)
    assert torch.equal(exact.mask, sequential.mask)
    assert bool(exact.to_dense().isfinite().all()) and bool(sequential.to_dense().isfinite().all())
    error = norm(weight - exact.to_dense())
    assert error <= norm(weight - sequential.to_dense()) + 1e-6 * norm(weight)
    assert error <= norm(weight * ~exact.mask) + 1e-6 * norm(weight)


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 30)),
    st.floats(0, 0.9),
    st.sampled_from(["matrix", "row"]),
    st.integers(1, 12),
)
def test_as_many_survive_as_of_magnitude(shape, sparsity, within, block_size):
    weight, norm = random(*shape), full_norm(correlated(40, shape[1]), damping=0.01)
    options = {"sparsity": sparsity, "within": within}
    try:
        magnitude = MagnitudePruning(**options).decompose(weight)
    except ValueError as error:
        with pytest.raises(ValueError) as raised:
            SparseGPT(**options).decompose(weight, norm)
        assert str(raised.value) == str(error)
        return
    form = SparseGPT(**options, block_size=block_size).decompose(weight, norm)
    assert form.params == magnitude.params
    assert within == "matrix" or form.mask.sum(dim=1).unique().numel() == 1


def test_as_many_survive_as_the_compression_ratio_allows():
    weight, norm = random(16, 40).float(), full_norm(correlated(90, 40))
    for ratio in (1.5, 4.0, 15.0):
        form = SparseGPT(compression_ratio=ratio).decompose(weight, norm)
        assert form.params == MagnitudePruning(compression_ratio=ratio).decompose(weight).params


@pytest.mark.parametrize("options", [{"sparsity": 0.6}, {"sparsity": 0.6, "within": "row"}])
@pytest.mark.parametrize("update", ["exact", "sequential"])
def test_without_pairs_of_inputs_it_is_magnitude_and_wanda(options, update):
    weight = random(8, 30)
    columns, rows = random(30, seed=1).square(), random(8, seed=2).square()
    whole = SparseGPT(**options, block_size=30, update=update)
    nm = SparseGPT(pattern="2:4", update=update)
    for norm in (Identity(), Diagonal(columns, rows), Diagonal(rows=rows)):
        expected = MagnitudePruning(**options).decompose(weight, norm).to_dense()
        assert torch.equal(whole.decompose(weight, norm).to_dense(), expected)
        expected = MagnitudePruning(pattern="2:4").decompose(weight, norm).to_dense()
        assert torch.equal(nm.decompose(weight, norm).to_dense(), expected)


def test_inputs_that_are_always_zero_are_pruned_first():
    inputs = correlated(40, 10)
    inputs[:, [0, 4, 5, 9]] = 0
    form = SparseGPT(0.4, within="row", block_size=10).decompose(random(6, 10), full_norm(inputs))
    assert torch.equal(form.mask, (inputs != 0).any(dim=0).expand(6, 10))
    assert "singular second moment: its diagonal raised by 1e-" in " ".join(form.notes)


def test_inputs_that_are_one_and_the_same_need_one_weight():
    """A moment of rank one: the survivor of each row does the work of all."""
    x = random(8, seed=3)
    weight, norm = random(5, 8), Full(torch.outer(x, x))
    form = SparseGPT(7 / 8, within="row", block_size=8).decompose(weight, norm)
    assert norm(weight - form.to_dense()) < 1e-6 * norm(weight)
    assert "singular second moment" in " ".join(form.notes)


def test_equal_losses_leave_the_first():
    form = SparseGPT(0.5, block_size=4, within="row").decompose(
        torch.ones(3, 8), Full(torch.eye(8))
    )
    assert form.mask.tolist() == [[True, True, False, False] * 2] * 3


def test_it_comes_back_from_the_file_bit_for_bit():
    weight = random(6, 20).float()
    form = SparseGPT(0.5).decompose(weight, full_norm(correlated(50, 20)))
    back = rebuild(form.config())
    back.load_state_dict(load(save(form.state_dict())))
    assert torch.equal(back.to_dense(), form.to_dense())
    again = SparseGPT(0.5).decompose(weight.clone(), full_norm(correlated(50, 20)))
    assert torch.equal(again.to_dense(), form.to_dense())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "SparseGPT with pattern 'unstructured' needs exactly one of sparsity"),
        ({"sparsity": 0.5, "pattern": "rows"}, "pattern='rows' of SparseGPT must be 'unstructured"),
        ({"sparsity": 0.5, "pattern": "4x4"}, "ALPS takes rows, columns and blocks"),
        ({"sparsity": 0.5, "block_size": 0}, "block_size=0 must be at least 1"),
        ({"sparsity": 0.5, "update": "none"}, r"update='none' must be one of \('exact', 'seq"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=text):
        SparseGPT(**options)


def test_a_moment_of_another_layer_is_refused():
    with pytest.raises(ValueError, match="statistics of another layer or model"):
        SparseGPT(0.5).decompose(random(3, 4), Full(torch.eye(5)))
