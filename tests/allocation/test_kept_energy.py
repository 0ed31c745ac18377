"""Ranks from one share of kept energy."""

import pytest
import torch
from torch import nn

from lowrank.allocation import KeptEnergy
from lowrank.compress import compress


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 40), nn.Linear(40, 25))
    decay = 0.5 ** torch.arange(20.0)
    u, _, v = torch.linalg.svd(model[0].weight.detach(), full_matrices=False)
    model[0].weight.data = (u * decay) @ v  # Nearly all energy in few singular values.
    return model


@pytest.mark.parametrize("ratio", [1.2, 2, 4, 8])
def test_the_size_is_met_with_one_share_for_all(ratio):
    model = network()
    result = compress(model, KeptEnergy(ratio))
    dense = sum(layer.dense_params for layer in result.layers)
    assert sum(layer.params for layer in result.layers) <= dense / ratio
    # The kept shares overlap: no layer could give up a rank that another would then keep.
    kept, wanted = [], []
    for layer, module in zip(result.layers, model, strict=True):
        energy = torch.linalg.svdvals(module.weight.detach().double()).square().cumsum(0)
        energy /= energy[-1].clone()
        if layer.factorization.startswith("LowRank"):
            rank = int(layer.factorization.split("→")[1])
            kept.append(float(energy[rank - 1]))
            wanted.append(float(energy[rank - 2]) if rank > 1 else 0.0)
    assert max(wanted) <= min(kept)


def test_the_layer_with_the_faster_decay_gets_the_lower_rank():
    layers = compress(network(), KeptEnergy(4)).layers
    ranks = [int(layer.factorization.split("→")[1]) for layer in layers]
    assert ranks[0] < ranks[1]


def test_a_size_below_rank_one_says_what_can_be_had():
    with pytest.raises(
        ValueError, match="compression_ratio=100 is out of reach: rank 1 .* gives 13"
    ):
        compress(network(), KeptEnergy(100))


def test_ratio_one_leaves_all_dense():
    layers = compress(network(), KeptEnergy(1)).layers
    assert [layer.params for layer in layers] == [layer.dense_params for layer in layers]


def test_a_row_vector_costs_what_it_costs_dense():
    """Rank 1 of 1 × n would be n + 1 numbers, so it stays dense, and no more is counted."""
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 1))
    smallest = 30 + 20 + 20
    layers = compress(model, KeptEnergy(620 / smallest)).layers
    assert [layer.params for layer in layers] == [50, 20]
    with pytest.raises(ValueError, match="out of reach: rank 1 in every layer gives 8.86"):
        compress(model, KeptEnergy(8.9))


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
        KeptEnergy(**options)
