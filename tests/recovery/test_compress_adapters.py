"""Adapters at a smaller rank and in fewer bits."""

import pytest
import torch
from made_networks import trained
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import LoRA, Quantization
from lowrank.factorizations import Quantized
from lowrank.norms import Diagonal
from lowrank.recovery import compress_adapters, merge_adapters


def adapted(rank=4, base=None) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 12), nn.Linear(12, 30, bias=False))
    return trained(compress(model, LoRA(rank, 6, dropout=0.5, base=base)).model).eval()


def change(layer) -> torch.Tensor:
    return layer.factorization.terms[1].to_dense().detach()


@pytest.mark.parametrize("base", [None, Quantization(4)])
def test_the_error_is_that_of_the_singular_values_left_out(base):
    model = adapted(base=base)
    before = [change(layer) for layer in model]
    bases = [layer.factorization.terms[0] for layer in model]
    found = compress_adapters(model, rank=2)
    assert list(found) == ["0", "1", "2"]
    for layer, old, term, report in zip(model, before, bases, found.values(), strict=True):
        s = torch.linalg.svdvals(old.double())
        least = (s[2:].square().sum() / s.square().sum()).sqrt()
        own = torch.linalg.matrix_norm(old - change(layer)) / torch.linalg.matrix_norm(old)
        assert report.error == pytest.approx(float(least), rel=1e-4)
        assert float(own) == pytest.approx(report.error, rel=1e-4)
        assert report.rank == 2 and report.nbytes * 2 == report.before
        assert layer.factorization.terms[0] is term
        assert layer.factorization.terms[1].dropout == 0.5


def test_a_rank_that_is_large_enough_changes_nothing():
    model, x = adapted(), torch.arange(30)
    before = model(x)
    found = compress_adapters(model, rank=4)
    assert torch.equal(model(x), before)
    assert {report.error for report in found.values()} == {0.0}


def test_a_norm_is_kept_better_by_what_is_best_in_it():
    norm = Diagonal(torch.tensor([100.0] * 2 + [1.0] * 6))
    plain, own = adapted(), adapted()
    old = change(plain[1])
    error = compress_adapters(own, rank=1, norms={"1": norm})["1"].error
    compress_adapters(plain, rank=1)
    assert norm.relative_error(old, change(own[1])) == pytest.approx(error, rel=1e-4)
    assert error < norm.relative_error(old, change(plain[1]))


def test_fewer_bits_for_both_factors():
    model = adapted()
    old = [change(layer) for layer in model]
    found = compress_adapters(model, rank=3, decomposer=Quantization(8))
    for layer, before, report in zip(model, old, found.values(), strict=True):
        factors = layer.factorization.terms[1].term.factors
        assert all(isinstance(factor, Quantized) for factor in factors)
        assert report.nbytes < report.before / 2 and report.rank == 3
        own = torch.linalg.matrix_norm(before - change(layer)) / torch.linalg.matrix_norm(before)
        assert 0 < report.error == pytest.approx(float(own), rel=1e-4)


def test_what_was_trained_can_be_trained_on_and_merged():
    model = adapted()
    compress_adapters(model, rank=2)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 7  # Two factors of three layers, and a bias.
    x = torch.arange(30)
    model(x).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    before = model(x)
    merge_adapters(model)
    torch.testing.assert_close(model(x), before)


def test_layers_that_share_a_form_share_the_smaller_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 30, bias=False))
    model[1].weight = model[0].weight
    model = trained(compress(model, LoRA(4, 4)).model)
    both = {"0": Diagonal(torch.ones(8)), "1": Diagonal(torch.ones(8))}
    with pytest.raises(ValueError, match="share one adapter: give the norm of one"):
        compress_adapters(model, rank=1, norms=both)
    old, other = change(model[0]), Diagonal(torch.arange(1.0, 9))
    found = compress_adapters(model, rank=1, norms={"1": other})
    assert model[0].factorization is model[1].factorization
    assert found["0"] == found["1"]
    assert other.relative_error(old, change(model[0])) == pytest.approx(found["0"].error, rel=1e-4)
