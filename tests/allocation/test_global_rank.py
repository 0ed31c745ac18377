"""One threshold on the worth of a singular value per parameter."""

import itertools

import pytest
import torch
from torch import nn

from lowrank.allocation import GlobalRank, KeptEnergy
from lowrank.compression.compress import compress
from lowrank.decomposers import TruncatedSVD
from lowrank.measure import nbytes
from lowrank.numerics import memo


def network(widths=(30, 20, 40, 25)) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))


def squared_error(model: nn.Sequential, compact: nn.Module) -> float:
    pairs = zip(model, compact.children(), strict=True)
    return sum(float((a.weight - b.weight).detach().double().square().sum()) for a, b in pairs)


@pytest.mark.parametrize("ratio", [1.1, 1.5, 2, 4, 8])
def test_the_size_is_met(ratio):
    layers = compress(network(), GlobalRank(ratio, of="layers")).layers
    assert (
        sum(layer.params for layer in layers) <= sum(layer.dense_params for layer in layers) / ratio
    )


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


def test_a_size_below_rank_one_says_what_can_be_had():
    with pytest.raises(
        ValueError, match="compression_ratio=100 is out of reach: rank 1 .* gives a ratio of 13"
    ):
        compress(network(), GlobalRank(100, of="layers"))


def test_ratio_one_leaves_all_dense():
    layers = compress(network(), GlobalRank(1, of="layers")).layers
    assert [layer.params for layer in layers] == [layer.dense_params for layer in layers]


def test_a_row_vector_costs_what_it_costs_dense():
    """Rank 1 of 1 × n would be n + 1 numbers, so it stays dense, and no more is counted."""
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 1))
    smallest = 30 + 20 + 20
    layers = compress(model, GlobalRank(620 / smallest, of="layers")).layers
    assert [layer.params for layer in layers] == [50, 20]
    with pytest.raises(
        ValueError, match="out of reach: rank 1 in every layer gives a ratio of 8.857"
    ):
        compress(model, GlobalRank(8.9, of="layers"))


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
    result = compress(model, GlobalRank(ratio), where=where, values=values)
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
        GlobalRank(**options)


@pytest.mark.parametrize("allocation", [GlobalRank(3), KeptEnergy(3)])
def test_after_a_sweep_of_ranks_no_spectrum_is_computed_again(allocation, monkeypatch):
    monkeypatch.setattr(memo, "MEMO", memo.Memo())
    model = network()
    for rank in (2, 5):
        compress(model, TruncatedSVD(rank, view="channel"))
    before = memo.MEMO.misses
    compress(model, allocation)
    assert before == 3 and memo.MEMO.misses == before
