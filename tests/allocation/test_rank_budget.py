"""Ranks within a number of bytes, whatever the rule that shares them out."""

import itertools

import pytest
import torch
from torch import nn

from lowrank.allocation import GlobalRank, KeptEnergy
from lowrank.compression.compress import compress
from lowrank.decomposers import TruncatedSVD
from lowrank.measure import nbytes
from lowrank.numerics import memo

every_rule = pytest.mark.parametrize("rule", [GlobalRank, KeptEnergy])


def network(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))


@every_rule
@pytest.mark.parametrize("ratio", [1.1, 1.5, 2, 4, 8])
def test_the_size_is_met(rule, ratio):
    layers = compress(network(30, 20, 40, 25), rule(ratio, of="layers")).layers
    dense = sum(layer.dense_params for layer in layers)
    assert sum(layer.params for layer in layers) <= dense / ratio


@every_rule
@pytest.mark.parametrize("values", [None, "float16"])
@pytest.mark.parametrize("ratio", [1.5, 2, 4, 8])
def test_the_ratio_is_that_of_the_whole_model_in_bytes(rule, ratio, values):
    """With biases, and with a layer that is not selected."""
    model = network(64, 128, 96, 64, 10)
    for layer in model:
        u, spectrum, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
        layer.weight.data = u * (spectrum * 0.9 ** torch.arange(len(spectrum))) @ v
    result = compress(model, rule(ratio), where=["0", "1", "2"], values=values)
    reached = nbytes(model) / nbytes(result.model)
    # All in 16 bits, nothing has to be factored for less than half the bytes.
    assert ratio <= reached <= max(1.1 * ratio, 2 if values else 0)


@every_rule
def test_a_size_below_rank_one_says_what_can_be_had(rule):
    with pytest.raises(
        ValueError, match="compression_ratio=100 is out of reach: rank 1 .* gives a ratio of 13"
    ):
        compress(network(30, 20, 40, 25), rule(100, of="layers"))


@every_rule
def test_ratio_one_leaves_all_dense(rule):
    layers = compress(network(30, 20, 40, 25), rule(1, of="layers")).layers
    assert [layer.params for layer in layers] == [layer.dense_params for layer in layers]


@every_rule
def test_a_row_vector_costs_what_it_costs_dense(rule):
    """Rank 1 of 1 × n would be n + 1 numbers, so it stays dense, and no more is counted."""
    model = network(30, 20, 1)
    smallest = 30 + 20 + 20
    layers = compress(model, rule(620 / smallest, of="layers")).layers
    assert [layer.params for layer in layers] == [50, 20]
    with pytest.raises(
        ValueError, match="out of reach: rank 1 in every layer gives a ratio of 8.857"
    ):
        compress(model, rule(8.9, of="layers"))


@every_rule
def test_after_a_sweep_of_ranks_no_spectrum_is_computed_again(rule, monkeypatch):
    monkeypatch.setattr(memo, "MEMO", memo.Memo())
    model = network(30, 20, 40, 25)
    for rank in (2, 5):
        compress(model, TruncatedSVD(rank, view="channel"))
    before = memo.MEMO.misses
    compress(model, rule(3))
    assert before == 3 and memo.MEMO.misses == before


@every_rule
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"compression_ratio": 0.5}, "compression_ratio=0.5 must be at least 1"),
        ({"compression_ratio": "4"}, "compression_ratio='4' must be a number: .* at least 1"),
        ({"compression_ratio": 4, "view": "row"}, "view='row' must be one of"),
    ],
)
def test_bad_options(rule, options, text):
    with pytest.raises(ValueError, match=text):
        rule(**options)
