"""One threshold on the worth of a singular value per parameter."""

import itertools

import pytest
import torch
from torch import nn

from lowrank.allocation import GlobalRank
from lowrank.compression.compress import compress


def network(widths=(30, 20, 40, 25)) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))


def squared_error(model: nn.Sequential, compact: nn.Module) -> float:
    pairs = zip(model, compact.children(), strict=True)
    return sum(float((a.weight - b.weight).detach().double().square().sum()) for a, b in pairs)


@pytest.mark.parametrize("ratio", [1.5, 2, 3])
def test_no_other_ranks_of_that_size_have_less_error(ratio):
    """Against every combination of ranks, on a network small enough to try them all."""
    model = network((9, 7, 8))
    model[0].weight.data *= 3
    result = compress(model, GlobalRank(ratio, of="layers"))
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
    ranks = [
        int(x.factorization.split("→")[1])
        for x in compress(model, GlobalRank(4, of="layers")).layers
    ]
    assert ranks[0] > ranks[1]
