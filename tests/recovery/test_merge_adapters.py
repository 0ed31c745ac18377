"""Merging trained adapters."""

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import LoRA, Quantization
from lowrank.factorizations import Dense
from lowrank.recovery import merge_adapters, unmerge_adapters


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 30, bias=False))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("base", [None, Quantization(4)])
def test_merged_equals_unmerged(base):
    model = compress(network(), LoRA(rank=2, alpha=4, dropout=0.5, base=base)).model.eval()
    for parameter in model.parameters():
        if parameter.requires_grad:  # As if trained.
            nn.init.normal_(parameter)
    tokens = torch.arange(30)
    before = model(tokens)
    forms = [layer.factorization for layer in model]
    replaced = merge_adapters(model)
    assert list(replaced) == ["0", "1", "2"]
    torch.testing.assert_close(model(tokens), before, rtol=1e-5, atol=1e-4)
    assert isinstance(model[1].factorization, Dense)
    assert model[0].factorization is model[2].factorization
    assert not model[1].factorization.training
    model.train().eval()
    unmerge_adapters(model, replaced)
    assert all(layer.factorization is form for layer, form in zip(model, forms, strict=True))
    assert torch.equal(model(tokens), before)


def test_nothing_to_merge():
    with pytest.raises(ValueError, match="no layer of the model holds an adapter"):
        merge_adapters(compress(network(), Quantization(4)).model)


def test_a_merge_of_another_model_is_not_taken_back():
    model, other = (compress(network(), LoRA(rank=2, alpha=4)).model for _ in range(2))
    replaced = merge_adapters(model)
    with pytest.raises(ValueError, match="no merged layer '0' of shape"):
        unmerge_adapters(other, replaced)
    merge_adapters(other)
    with pytest.raises(ValueError, match="no merged layer '2' of shape"):
        unmerge_adapters(other[:2], replaced)


@pytest.mark.parametrize("adapter", [LoRA(2, 4), LoRA(2, 4, base=Quantization(4))], ids=str)
def test_a_merged_model_that_was_cast_is_taken_back_in_its_dtype(adapter):
    model = compress(nn.Sequential(nn.Linear(16, 12)), adapter).model.eval()
    replaced = merge_adapters(model)
    model.bfloat16()
    unmerge_adapters(model, replaced)
    assert model(torch.ones(2, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16
