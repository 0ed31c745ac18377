import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import random, tensor_bytes
from torch import nn
from torch.nn.utils import prune

from lowrank.decomposers import MagnitudePruning
from lowrank.norms import Diagonal, Full, Identity
from lowrank.numerics.memo import MEMO


def pruned(weight, *args, **options):
    return MagnitudePruning(*args, **options).decompose(weight).to_dense().detach()


shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(shapes, st.floats(0, 0.99), st.integers(0, 1000))
def test_exactly_the_largest_stay(shape, sparsity, seed):
    weight = random(*shape, seed=seed)
    keep = weight.numel() - round(sparsity * weight.numel())
    if keep == 0:
        with pytest.raises(ValueError, match="keeps none of"):
            pruned(weight, sparsity)
        return
    result = pruned(weight, sparsity)
    kept = result != 0
    assert int(kept.sum()) == keep
    assert torch.equal(result[kept], weight[kept])
    assert kept.all() or weight[kept].abs().min() >= weight[~kept].abs().max()


def test_no_other_mask_of_as_many_is_nearer():
    weight = random(3, 4, seed=2)
    error = (weight - pruned(weight, sparsity=7 / 12)).norm()
    for places in itertools.combinations(range(12), 5):
        other = torch.zeros(12, dtype=torch.float64)
        other[list(places)] = weight.flatten()[list(places)]
        assert (weight - other.view(3, 4)).norm() >= error


@pytest.mark.parametrize(
    ("pattern", "size", "blocks"),
    [("rows", (1, 6), 4), ("columns", (4, 1), 6), ("2x3", (2, 3), 4)],
)
def test_no_other_rows_columns_or_blocks_are_nearer(pattern, size, blocks):
    weight = random(4, 6, seed=3)
    error = (weight - pruned(weight, sparsity=0.5, pattern=pattern)).norm()
    corners = itertools.product(range(0, 4, size[0]), range(0, 6, size[1]))
    for places in itertools.combinations(corners, blocks // 2):
        other = torch.zeros_like(weight)
        for row, column in places:
            cut = slice(row, row + size[0]), slice(column, column + size[1])
            other[cut] = weight[cut]
        assert (weight - other).norm() >= error - 1e-12


@given(shapes, st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_among_equal_magnitudes_the_first_stay_and_the_count_is_exact(shape, sparsity):
    weight = torch.full(shape, -0.5)
    keep = weight.numel() - round(sparsity * weight.numel())
    if keep:
        expected = torch.arange(weight.numel()).view(shape) < keep
        assert torch.equal(pruned(weight, sparsity) != 0, expected)


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.93])
def test_torch_prunes_the_same_weights(amount):
    layer = nn.Linear(40, 30)
    weight = layer.weight.detach().clone()
    prune.l1_unstructured(layer, "weight", amount)
    assert torch.equal(pruned(weight, amount), layer.weight)


@pytest.mark.parametrize(("pattern", "axis"), [("rows", 0), ("columns", 1)])
def test_torch_prunes_the_same_rows_and_columns(pattern, axis):
    layer = nn.Linear(40, 30)
    weight = layer.weight.detach().clone()
    prune.ln_structured(layer, "weight", 0.4, n=2, dim=axis)
    assert torch.equal(pruned(weight, 0.4, pattern=pattern), layer.weight)


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 13)),
    st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 5), (4, 8)]),
    st.integers(0, 1000),
)
def test_every_group_keeps_its_n_largest_of_m(shape, counts, seed):
    n, m = counts
    weight = random(*shape, seed=seed)
    factorization = MagnitudePruning(pattern=f"{n}:{m}").decompose(weight)
    for row, result in zip(weight, factorization.to_dense(), strict=True):
        for group, kept in zip(row.split(m), result.split(m), strict=True):
            number = -(-n * len(group) // m)
            expected = torch.zeros_like(group)
            largest = group.abs().topk(number).indices
            expected[largest] = group[largest]
            assert torch.equal(kept, expected)
    # Equally many in every row, and kept so, for a scale of each row's own.
    assert factorization.values.shape[0] == shape[0]


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    ratio=st.floats(1, 60),
    options=st.sampled_from(
        [{"pattern": name} for name in ("unstructured", "rows", "columns", "4x4", "7x3")]
        + [{"pattern": name, "within": "row"} for name in ("unstructured", "4x4", "7x3")]
    ),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_as_many_survive_as_the_compression_ratio_allows(shape, ratio, options, dtype):
    weight = random(*shape, dtype=dtype)
    limit = weight.nbytes / ratio
    whole = MagnitudePruning(0, **options).decompose(weight).grid
    sets = whole.size[0] if "within" in options else 1
    blocks, kept = whole.count // sets, 0
    try:
        sparse = MagnitudePruning(compression_ratio=ratio, **options).decompose(weight)
    except ValueError as error:
        assert "out of reach" in str(error)
    else:
        assert tensor_bytes(sparse) <= limit
        kept = sparse.config()["kept_blocks"] // sets
    if kept < blocks:
        more = MagnitudePruning(sparsity=(blocks - kept - 1) / blocks, **options)
        assert tensor_bytes(more.decompose(weight)) > limit


def positive(length, seed=0):
    return random(length, seed=seed).square()


@given(shapes, st.floats(0, 0.99), st.booleans(), st.integers(0, 1000))
def test_in_a_diagonal_norm_it_is_wanda(shape, sparsity, in_each_row, seed):
    """Against the formula of the paper, weight by weight: |w_ij| · ‖x_j‖."""
    weight, inputs = random(*shape, seed=seed), random(30, shape[1], seed=seed + 1)
    within = "row" if in_each_row else "matrix"
    try:
        method = MagnitudePruning(sparsity, within=within)
        result = method.decompose(weight, Diagonal(inputs.square().mean(dim=0)))
    except ValueError as error:
        assert "keeps none of" in str(error)
        return
    score = weight.abs() * inputs.norm(dim=0)
    expected = torch.zeros_like(weight)
    for values, scores, row in zip(
        *((part if in_each_row else part.view(1, -1)) for part in (weight, score, expected)),
        strict=True,
    ):
        best = scores.topk(len(values) - round(sparsity * len(values))).indices
        row[best] = values[best]
    assert torch.equal(result.to_dense(), expected)
    if in_each_row:  # Equally many in every row, and stored so.
        assert result.values.shape[0] == shape[0]


@given(
    shapes,
    st.sampled_from(
        [
            {"sparsity": 0.5},
            {"sparsity": 0.5, "within": "row"},
            {"pattern": "2:4"},
            {"sparsity": 0.5, "pattern": "columns"},
        ]
    ),
    st.sampled_from(["columns", "rows", "both"]),
    st.integers(0, 1000),
)
def test_in_its_own_norm_wanda_is_never_worse_than_magnitude(shape, options, given, seed):
    weight = random(*shape, seed=seed)
    columns, rows = positive(shape[1], seed=seed + 1), positive(shape[0], seed=seed + 2)
    norm = Diagonal(
        columns if given != "rows" else None, rows if given != "columns" else None, damping=0.01
    )
    try:
        magnitude = MagnitudePruning(**options).decompose(weight)
    except ValueError as error:
        assert "keeps none of" in str(error)
        return
    wanda = MagnitudePruning(**options).decompose(weight, norm)
    assert wanda.params == magnitude.params
    error = norm(weight - wanda.to_dense().detach())
    assert error <= norm(weight - magnitude.to_dense().detach()) * (1 + 1e-12)


def test_tokens_that_are_frequent_keep_more_of_their_embedding():
    table, counts = torch.ones(4, 6), torch.tensor([0.0, 1.0, 100.0, 10.0])
    kept = MagnitudePruning(0.5).decompose(table, Diagonal(rows=counts)).to_dense().bool()
    assert kept.sum(dim=1).tolist() == [0, 0, 6, 6]
    in_each_row = MagnitudePruning(0.5, within="row").decompose(table, Diagonal(rows=counts))
    assert in_each_row.to_dense().sum(dim=1).tolist() == [3, 3, 3, 3]


def test_equal_weights_of_a_diagonal_norm_change_nothing():
    weight = random(9, 14)
    for options in ({"sparsity": 0.6}, {"pattern": "2:4"}, {"sparsity": 0.5, "pattern": "3x2"}):
        expected = MagnitudePruning(**options).decompose(weight, Identity()).to_dense()
        flat = Diagonal(torch.full((14,), 1e-30), torch.full((9,), 1e9))
        assert torch.equal(MagnitudePruning(**options).decompose(weight, flat).to_dense(), expected)


@given(shape=shapes, sparsity=st.floats(0, 0.9))
def test_a_row_of_equal_magnitudes_keeps_its_first(shape, sparsity):
    keep = shape[1] - round(sparsity * shape[1])
    if keep:
        result = pruned(torch.full(shape, -0.5), sparsity, within="row") != 0
        assert torch.equal(result, (torch.arange(shape[1]) < keep).expand(shape))


def test_dead_inputs_go_first():
    weight = random(5, 8)
    norm = Diagonal(torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0]))
    kept = MagnitudePruning(0.5, within="row").decompose(weight, norm).to_dense() != 0
    assert torch.equal(kept, (norm.columns > 0).expand(5, 8))


def test_the_moments_of_pairs_are_refused():
    with pytest.raises(ValueError, match="MagnitudePruning cannot .*supports Identity or Diagonal"):
        MagnitudePruning(0.5).decompose(random(3, 4), Full(torch.eye(4)))


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_magnitudes_neither_overflow_nor_vanish(scale):
    weight = random(6, 8)
    expected = pruned(weight, 0.5) * scale
    torch.testing.assert_close(pruned(weight * scale, 0.5), expected, rtol=1e-12, atol=0)
    assert int(pruned(torch.zeros(4, 4), 0.5).count_nonzero()) == 0


def test_one_sort_serves_all_sparsities():
    MEMO.clear()
    weight = random(20, 20)
    for sparsity in (0.1, 0.5, 0.9):
        pruned(weight, sparsity)
    assert MEMO.misses == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "needs exactly one of sparsity and compression_ratio, got sparsity=None"),
        ({"sparsity": 0.5, "compression_ratio": 2.0}, "needs exactly one"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "with pattern '2:4' needs none of sparsity"),
        ({"sparsity": 1.0}, r"sparsity=1.0 must lie in \[0, 1\)"),
        ({"sparsity": -0.1}, r"sparsity=-0.1 must lie in \[0, 1\)"),
        ({"sparsity": float("nan")}, r"must lie in \[0, 1\)"),
        ({"compression_ratio": 0.5}, "compression_ratio=0.5 must be at least 1"),
        ({"pattern": "4:2"}, "pattern='4:2' does not exist: give 'unstructured'"),
        ({"pattern": "4:4"}, "does not exist"),
        ({"pattern": "0x4"}, "does not exist"),
        ({"pattern": "channels"}, "does not exist"),
        (
            {"sparsity": 0.5, "within": "column"},
            r"within='column' must be one of \('matrix', 'row'",
        ),
        ({"pattern": "2:4", "within": "row"}, "pattern='2:4' already says what competes with what"),
        ({"sparsity": 0.5, "pattern": "rows", "within": "row"}, "give within='matrix' with it, or"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=text):
        MagnitudePruning(**options)


def test_what_does_not_fit_the_weight():
    with pytest.raises(ValueError, match="sparsity=0.9 keeps none of the 3 blocks of a weight of"):
        MagnitudePruning(0.9, pattern="rows").decompose(random(3, 50))
    with pytest.raises(
        ValueError, match="keeps none of the 4 blocks of each row of blocks of a we"
    ):
        MagnitudePruning(0.9, within="row").decompose(random(3, 4))
    text = r"compression_ratio=100 is out of reach for a weight of shape \(3, 4\).*torch.float64"
    with pytest.raises(ValueError, match=text):
        MagnitudePruning(compression_ratio=100).decompose(random(3, 4))
