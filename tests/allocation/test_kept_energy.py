"""Ranks from one share of kept energy."""

import itertools

import pytest
import torch
from torch import nn

from lowrank.allocation import KeptEnergy
from lowrank.compression.compress import compress
from lowrank.measure import nbytes


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


def test_a_size_below_rank_one_says_what_can_be_had():
    with pytest.raises(
        ValueError, match="compression_ratio=100 is out of reach: rank 1 .* gives a ratio of 13"
    ):
        compress(network(), KeptEnergy(100, of="layers"))


def test_ratio_one_leaves_all_dense():
    layers = compress(network(), KeptEnergy(1, of="layers")).layers
    assert [layer.params for layer in layers] == [layer.dense_params for layer in layers]


def test_a_row_vector_costs_what_it_costs_dense():
    """Rank 1 of 1 × n would be n + 1 numbers, so it stays dense, and no more is counted."""
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 1))
    smallest = 30 + 20 + 20
    layers = compress(model, KeptEnergy(620 / smallest, of="layers")).layers
    assert [layer.params for layer in layers] == [50, 20]
    with pytest.raises(
        ValueError, match="out of reach: rank 1 in every layer gives a ratio of 8.857"
    ):
        compress(model, KeptEnergy(8.9, of="layers"))


@pytest.mark.parametrize("values", [None, "float16"])
@pytest.mark.parametrize("ratio", [1.5, 2, 4, 8])
def test_the_ratio_is_that_of_the_whole_model_in_bytes(ratio, values):
    """With biases, and with a layer that is not selected."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise((64, 128, 96, 64, 10))))
    for layer in model:
        u, spectrum, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
        layer.weight.data = u * (spectrum * 0.9 ** torch.arange(len(spectrum))) @ v
    where = ["0", "1", "2"]
    result = compress(model, KeptEnergy(ratio), where=where, values=values)
    reached = nbytes(model) / nbytes(result.model)
    # All in 16 bits, nothing has to be factored for less than half the bytes.
    assert ratio <= reached <= max(1.1 * ratio, 2 if values else 0)


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
