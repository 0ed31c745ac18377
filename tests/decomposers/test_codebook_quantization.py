import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random

from lowrank.decomposers import CodebookQuantization, Quantization
from lowrank.numerics.kmeans import PLACES, kmeans
from lowrank.numerics.memo import MEMO


def squared_error(weight, *args):
    result = CodebookQuantization(*args).decompose(weight).to_dense().detach()
    return float((weight.double() - result.double()).square().sum())


def optimum(values, clusters):
    """The least squared error of all partitions into consecutive clusters."""
    values = sorted(values)
    best = sum((v - np.mean(values)) ** 2 for v in values)
    for cuts in itertools.combinations(range(1, len(values)), min(clusters, len(values)) - 1):
        parts = np.split(np.array(values), cuts)
        best = min(best, sum(((part - part.mean()) ** 2).sum() for part in parts))
    return best


@settings(max_examples=50)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=9), st.sampled_from([1, 2]))
def test_small_groups_are_clustered_as_well_as_can_be(values, bits):
    weight = torch.tensor([values], dtype=torch.float64)
    best = optimum(values, 2**bits)
    # Sums of squares are rounded, so partitions that close to each other are the same.
    rounding = 1e-15 * float(weight.square().sum())
    assert squared_error(weight, bits) <= best + rounding


@pytest.mark.parametrize("bits", [1, 3, 4])
def test_rows_shorter_than_the_search_are_clustered_as_well_as_can_be(bits):
    weight = random(6, PLACES - 1)
    for row in weight:
        # Dynamic programming over all partitions: error[k][j] of the first j values in k clusters.
        values = row.sort().values.tolist()
        ends = range(len(values) + 1)
        cost = {
            (i, j): float(((part := np.array(values[i:j])) - part.mean()) @ (part - part.mean()))
            for i in ends
            for j in ends
            if i < j
        }
        error = [0.0] + [float("inf")] * len(values)
        for _ in range(2**bits):
            error = [min([error[j]] + [error[i] + cost[i, j] for i in range(j)]) for j in ends]
        assert squared_error(row[None], bits) <= error[-1] * (1 + 1e-9)


@pytest.mark.parametrize("clusters", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("kind", ["normal", "laplace", "two"])
@pytest.mark.parametrize("count", [60, 1500])
def test_never_worse_than_scikit_learn(clusters, kind, count):
    from sklearn.cluster import KMeans

    generator = np.random.default_rng(count + clusters)
    values = {
        "normal": generator.normal(size=count),
        "laplace": generator.laplace(size=count),
        "two": np.r_[generator.normal(-3, 0.2, count // 2), generator.normal(2, 1, count // 2)],
    }[kind]
    theirs = KMeans(clusters, n_init=3, random_state=0, tol=0).fit(values[:, None]).inertia_
    ascending = torch.tensor(np.sort(values))
    centroids = kmeans(ascending[None], torch.tensor([count]), clusters)
    ours = float((ascending[:, None] - centroids).square().amin(dim=1).sum())
    assert ours <= theirs * (1 + 1e-6)


@pytest.mark.parametrize("clusters", [2, 16])
def test_from_even_steps_it_is_the_algorithm_of_lloyd(clusters):
    from sklearn.cluster import KMeans

    values = np.sort(np.random.default_rng(clusters).laplace(size=1500))
    steps = values[0] + (np.arange(clusters) + 0.5) / clusters * (values[-1] - values[0])
    start = values[np.searchsorted(values, steps)][:, None]
    theirs = KMeans(clusters, init=start, n_init=1, tol=0, max_iter=1000).fit(values[:, None])
    centroids = kmeans(torch.tensor(values)[None], torch.tensor([1500]), clusters, "even")
    assert centroids[0].tolist() == pytest.approx(sorted(theirs.cluster_centers_[:, 0]))


@settings(max_examples=50)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 40)),
    bits=st.integers(1, 5),
    group_size=st.sampled_from(["channel", "tensor"]) | st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_neither_codes_nor_centroids_can_be_improved(shape, bits, group_size, seed):
    weight = random(*shape, seed=seed)
    codebook = CodebookQuantization(bits, group_size).decompose(weight)
    layout = codebook.layout
    groups, result = layout.split(weight), layout.split(codebook.to_dense().detach())
    filled = layout.filled(weight.device)
    for row, rounded, real, centroids in zip(
        groups, result, filled, codebook.centroids.detach(), strict=True
    ):
        row, rounded = row[real], rounded[real]
        nearest = (row[:, None] - centroids).abs().amin(dim=1)
        assert torch.allclose((row - rounded).abs(), nearest, rtol=0, atol=1e-12)
        for value in rounded.unique():
            assert row[rounded == value].mean() == pytest.approx(float(value), abs=1e-12)


@settings(max_examples=50)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8),
    bits=st.integers(3, 8),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    group_size=st.sampled_from(["tensor", "channel", 7]),
)
def test_few_distinct_values_are_stored_without_error(values, bits, dtype, group_size):
    weight = torch.tensor(values, dtype=dtype).repeat(5)[: 5 * len(values)].view(5, -1)
    result = CodebookQuantization(bits, group_size).decompose(weight).to_dense()
    assert torch.equal(result, weight)


@pytest.mark.parametrize("bits", range(1, 7))
def test_better_than_evenly_spaced_levels_and_than_fewer_bits(bits):
    weight = random(40, 100)
    even = Quantization(bits, "tensor", scale="mse").decompose(weight).to_dense()
    codebook = squared_error(weight, bits)
    assert codebook < float((weight - even).square().sum())
    assert bits == 1 or codebook < squared_error(weight, bits - 1) / 2


def test_many_normal_weights_reach_the_known_optimum():
    # Max, IRE Transactions on Information Theory 6(1), 1960, table I: 1 − 4 bits.
    weight = random(300, 1000)
    for bits, known in ((1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)):
        assert squared_error(weight, bits) / weight.numel() == pytest.approx(known, rel=0.02)


def test_the_stored_bytes_are_codes_and_centroids():
    stored = CodebookQuantization(4).decompose(random(100, 50, dtype=torch.float32)).state_dict()
    assert sum(tensor.nbytes for tensor in stored.values()) == 100 * 50 // 2 + 16 * 4


def test_one_sort_serves_all_bits():
    MEMO.clear()
    weight = random(20, 20)
    for bits in (1, 2, 3):
        squared_error(weight, bits)
    assert MEMO.misses == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("magnitude", [1e-4, 1.0, 1e3])
def test_weights_of_any_dtype_and_magnitude(dtype, magnitude):
    weight = (random(30, 40) * magnitude).to(dtype)
    codebook = CodebookQuantization(4).decompose(weight)
    result = codebook.to_dense().detach()
    assert result.dtype == dtype
    assert (weight.double() - result.double()).norm() / weight.double().norm() < 0.12


@pytest.mark.parametrize("magnitude", [1e-300, 1e300])
def test_no_sum_overflows_or_vanishes(magnitude):
    weight = random(30, 40)
    expected = CodebookQuantization(4).decompose(weight).to_dense() * magnitude
    result = CodebookQuantization(4).decompose(weight * magnitude).to_dense()
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=0)


def test_bad_options():
    with pytest.raises(ValueError, match="bits=9 does not exist"):
        CodebookQuantization(9)
    with pytest.raises(ValueError, match="group_size=0 does not exist"):
        CodebookQuantization(4, 0)
