"""Ranks from one share of kept energy."""

import pytest
import torch
from torch import nn

from lowrank.allocation import KeptEnergy
from lowrank.compression.compress import compress


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
    result = compress(model, KeptEnergy(ratio, of="layers"))
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
    layers = compress(network(), KeptEnergy(4, of="layers")).layers
    ranks = [int(layer.factorization.split("→")[1]) for layer in layers]
    assert ranks[0] < ranks[1]
