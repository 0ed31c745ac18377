"""One threshold on the worth of a singular value per parameter."""

import itertools

import pytest
import torch
from torch import nn

from lowrank.allocation import GlobalRank
from lowrank.compress import compress


def network(widths=(30, 20, 40, 25)) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))


def squared_error(model: nn.Sequential, compact: nn.Module) -> float:
    pairs = zip(model, compact.children(), strict=True)
    return sum(float((a.weight - b.weight).detach().double().square().sum()) for a, b in pairs)


@pytest.mark.parametrize("ratio", [1.1, 1.5, 2, 4, 8])
def test_the_size_is_met(ratio):
    layers = compress(network(), GlobalRank(ratio)).layers
    assert (
        sum(layer.params for layer in layers) <= sum(layer.dense_params for layer in layers) / ratio
    )


@pytest.mark.parametrize("ratio", [1.5, 2, 3])
def test_no_other_ranks_of_that_size_have_less_error(ratio):
    """Against every combination of ranks, on a network small enough to try them all."""
    model = network((9, 7, 8))
    model[0].weight.data *= 3
    result = compress(model, GlobalRank(ratio))
    spent = sum(layer.params for layer in result.layers)
    best = squared_error(model, result.model)
    curves = []
    for layer in model:
        energy = torch.linalg.svdvals(layer.weight.detach().double()).square()
        out, inner = layer.weight.shape
        ranks = range(1, len(energy) + 1)
        curve = [(r * (out + inner), float(energy[r:].sum())) for r in ranks]
        curves.append([*(c for c in curve if c[0] < out * inner), (out * inner, 0.0)])
    for choice in itertools.product(*curves):
        if sum(cost for cost, _ in choice) <= spent:
            assert sum(error for _, error in choice) >= best - 1e-6


def test_larger_weights_keep_more():
    model = network((20, 20, 20))
    model[0].weight.data *= 5
    ranks = [int(x.factorization.split("→")[1]) for x in compress(model, GlobalRank(4)).layers]
    assert ranks[0] > ranks[1]


def test_a_size_below_rank_one_says_what_can_be_had():
    with pytest.raises(
        ValueError, match="compression_ratio=100 is out of reach: rank 1 .* gives 13"
    ):
        compress(network(), GlobalRank(100))


def test_ratio_one_leaves_all_dense():
    layers = compress(network(), GlobalRank(1)).layers
    assert [layer.params for layer in layers] == [layer.dense_params for layer in layers]


def test_a_row_vector_costs_what_it_costs_dense():
    """Rank 1 of 1 × n would be n + 1 numbers, so it stays dense, and no more is counted."""
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 1))
    smallest = 30 + 20 + 20
    layers = compress(model, GlobalRank(620 / smallest)).layers
    assert [layer.params for layer in layers] == [50, 20]
    with pytest.raises(ValueError, match="out of reach: rank 1 in every layer gives 8.86"):
        compress(model, GlobalRank(8.9))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"compression_ratio": 0.5}, "compression_ratio=0.5 must be at least 1"),
        ({"compression_ratio": "4"}, "compression_ratio='4' must be a number: .* at least 1"),
        ({"compression_ratio": 4, "view": "row"}, "view='row' must be one of"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=text):
        GlobalRank(**options)
