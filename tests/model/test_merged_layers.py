"""Models whose adapters were merged, compressed once more."""

import pytest
import torch
from kinds_of_layers import KINDS
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import LoRA, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.factorizations import Quantized
from lowrank.model.dense import dense_model
from lowrank.recovery import merge_adapters

METHODS = {
    "low rank": TruncatedSVD(2),
    "quantized": Quantization(4),
    "sparse": MagnitudePruning(0.5),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 30, bias=False))
    model[2].weight = model[0].weight
    return model


def merged(name) -> nn.Module:
    model = compress(KINDS[name].dense(), LoRA(rank=2, alpha=4)).model
    for parameter in model.parameters():
        if parameter.requires_grad:  # As if trained.
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    merge_adapters(model)
    return model.eval()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("name", KINDS)
def test_a_merged_model_is_compressed_as_a_plain_one(name, method):
    model, kind = merged(name), KINDS[name]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    (outputs,) = kind.outputs(model)
    found, expected = compress(model, method), compress(dense_model(model), method)
    assert [layer.row() for layer in found.layers] == [layer.row() for layer in expected.layers]
    assert found.skipped == expected.skipped and found.left == expected.left
    for one, other in zip(kind.outputs(found.model), kind.outputs(expected.model), strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(kind.outputs(found.model)[0], outputs)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_tied_layers_stay_tied_and_keep_their_hooks(method):
    model = compress(network(), LoRA(rank=2, alpha=4)).model
    merge_adapters(model)
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    found = compress(model, method)
    assert found.model[0].factorization is found.model[2].factorization
    assert found.layers[0].tied_to == ["2"] and len(found.layers) == 2
    found.model(torch.arange(3))
    assert calls == [1]


def test_layers_with_another_form_are_named():
    model = compress(network(), {"1": Quantization(4), "*": LoRA(rank=2, alpha=4)}).model
    merge_adapters(model)
    found = compress(model, TruncatedSVD(2))
    assert isinstance(found.model[1].factorization, Quantized)
    assert [name for name, _ in found.skipped] == ["1.factorization"]
    assert "is compressed already, to Quantized" in found.skipped[0][1]
    with pytest.raises(ValueError, match=r"Those that cannot:\n.*is compressed already"):
        compress(compress(network(), Quantization(4)).model, TruncatedSVD(2))
