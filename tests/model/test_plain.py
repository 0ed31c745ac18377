"""Models of PyTorch's own modules, low-rank layers as several of them."""

import pytest
import torch
from architectures import ARCHITECTURES
from kinds_of_layers import KINDS
from torch import nn

from lowrank import (
    CanonicalPolyadic,
    Chain,
    LowRankPlusSparse,
    Quantization,
    TruncatedSVD,
    Tucker2,
    compress,
)
from lowrank.factorizations import Dense, Product
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.host import Host
from lowrank.model.plain import plain_model, why_whole


def check_equal(one, other, *inputs, **named):
    with torch.no_grad():
        torch.testing.assert_close(one(*inputs, **named), other(*inputs, **named))


def is_plain(model):
    own = [m for m in model.modules() if isinstance(m, FactorizedLayer | Host)]
    return not own and all(type(m).__module__.startswith("torch.nn") for m in model.modules())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("view", ["channel", "channels_last", "spatial"])
def test_every_kind_of_layer_computes_the_same(kind, view):
    model = compress(kind.dense(), TruncatedSVD(rank=1, view=view)).model
    result = plain_model(model)
    assert not any(isinstance(m, FactorizedLayer | Host) for m in result.modules())
    for one, other in zip(kind.outputs(result), kind.outputs(model), strict=True):
        torch.testing.assert_close(one, other)


def test_a_linear_layer_becomes_two():
    torch.manual_seed(0)
    model = compress(nn.Sequential(nn.Linear(16, 12), nn.ReLU()), TruncatedSVD(rank=3)).model
    result = plain_model(model)
    right, left = result[0]
    assert (right.weight.shape, right.bias) == ((3, 16), None)
    assert left.weight.shape == (12, 3) and left.bias is model[0].bias
    assert is_plain(result)
    check_equal(result, model, torch.randn(2, 5, 16))


CONVOLUTIONS = {
    "1d": (nn.Conv1d(6, 8, 3, stride=2, padding=1), (6, 11)),
    "2d": (nn.Conv2d(6, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(2, 1)), (6, 9, 10)),
    "3d": (nn.Conv3d(6, 8, 3, padding=1), (6, 5, 6, 7)),
    "same, of even size": (nn.Conv2d(6, 8, (4, 3), padding="same"), (6, 9, 10)),
    "reflected": (nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), (6, 9, 10)),
    "circular": (nn.Conv1d(6, 8, 3, padding=2, padding_mode="circular"), (6, 9)),
    "groups": (nn.Conv2d(12, 16, 3, padding=1, groups=2), (12, 9, 10)),
    "transposed 1d": (nn.ConvTranspose1d(6, 8, 3, 2, 1, output_padding=1), (6, 9)),
    "transposed 2d": (nn.ConvTranspose2d(6, 8, (3, 4), (2, 1), (1, 0)), (6, 9, 10)),
    "transposed, groups": (nn.ConvTranspose2d(12, 16, 3, 2, groups=2), (12, 5, 6)),
    "transposed 3d": (nn.ConvTranspose3d(6, 8, 3, padding=1), (6, 5, 6, 7)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even:UserWarning")
@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
@pytest.mark.parametrize(
    "method",
    [
        TruncatedSVD(rank=2, view="channel"),
        TruncatedSVD(rank=1, view="spatial"),
        Tucker2(ranks=(2, 3)),
        CanonicalPolyadic(rank=2),
    ],
    ids=["channel", "spatial", "Tucker-2", "CP"],
)
def test_a_convolution_becomes_several_of_fewer_weights(layer, method):
    dense, shape = layer
    torch.manual_seed(0)
    model = compress(nn.Sequential(dense), method).model.double()
    result = plain_model(model)
    assert is_plain(result) and isinstance(result[0], nn.Sequential)
    assert type(dense) in {type(part) for part in result[0]}
    assert sum(p.numel() for p in result.parameters()) < sum(p.numel() for p in dense.parameters())
    x = torch.randn(2, *shape, dtype=torch.float64)
    check_equal(result, model, x)
    check_equal(result, model, x[0])  # Without a batch.


def test_a_table_becomes_a_smaller_one_and_a_linear_layer():
    table = nn.Embedding(40, 12, padding_idx=3)
    model = compress(nn.Sequential(table), TruncatedSVD(rank=2)).model
    result = plain_model(model)
    assert [type(part) for part in result[0]] == [nn.Embedding, nn.Linear]
    check_equal(result, model, torch.arange(40))


def test_factors_are_multiplied_out_each_by_itself():
    method = Chain([TruncatedSVD(rank=3), Quantization(bits=8)])
    model = compress(nn.Sequential(nn.Linear(16, 12)), method).model
    result = plain_model(model)
    assert [part.weight.shape for part in result[0]] == [(3, 16), (12, 3)]
    check_equal(result, model, torch.randn(2, 16))


def test_what_is_no_product_or_no_smaller_is_multiplied_out_and_said():
    layers = [nn.Linear(16, 12), nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 12)]
    methods = [Quantization(4), TruncatedSVD(2), LowRankPlusSparse(rank=2, sparsity=0.9)]
    methods = {str(place): method for place, method in enumerate([*methods, TruncatedSVD(2)])}
    model = compress(nn.Sequential(*layers), methods).model
    model[1].factorization = Product(Dense(torch.randn(12, 6)), Dense(torch.randn(6, 12)))
    assert why_whole(model, "3") == {
        "0": "no modules of PyTorch hold this form",
        "1": "its factors have as many numbers as the matrix",
        "2": "no modules of PyTorch hold this form",
        "3": "it was asked for",
    }
    result = plain_model(model, whole=["3"])
    assert [type(layer) for layer in result] == [nn.Linear] * 4
    check_equal(result, model, torch.randn(2, 16))
    with pytest.raises(ValueError, match=r"whole='head' fits none of the layers \['0', '1'"):
        plain_model(model, whole="head")


def test_tied_layers_share_the_modules_weights():
    layer = nn.Linear(12, 12)
    model = compress(nn.Sequential(layer, nn.ReLU(), layer), TruncatedSVD(rank=2)).model
    result = plain_model(model)
    assert result[0][0].weight is result[2][0].weight
    check_equal(result, model, torch.randn(2, 12))


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "T5", "ViT"])
def test_architectures_compute_the_same(name):
    """T5 reads the weight of `wo`, which therefore stays one matrix."""
    architecture = ARCHITECTURES[name]
    model = compress(architecture.make(), TruncatedSVD(rank=2)).model
    result = plain_model(model)
    assert not any(isinstance(module, FactorizedLayer) for module in result.modules())
    assert any(isinstance(module, nn.Sequential) for module in result.modules())
    with torch.no_grad():
        one, other = (m(**architecture.inputs)[0] for m in (result, model))
    torch.testing.assert_close(one, other)
    read = {path.rpartition(".")[2] for path in why_whole(model)}
    assert ("wo" in read) == (name == "T5")


def test_attention_and_encoder_layers_of_pytorch_that_read_weights_stay_whole():
    torch.manual_seed(0)
    dense = nn.TransformerEncoderLayer(8, 2, 64, batch_first=True).eval()
    model = compress(dense, TruncatedSVD(rank=1)).model
    result = plain_model(model)
    check_equal(result, model, torch.randn(2, 3, 8))
    assert "TransformerEncoderLayer reads its parts" in why_whole(model)["linear1"].replace(
        "the code of ", ""
    )
