"""Every kind of layer: a factorization of full rank in its place computes what it computed."""

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import BlockLowRank, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Dense, Product
from lowrank.model.layers import rule_for


class Exact(Decomposer):
    """W as W · I: a product, so that every factored code path runs, and exact."""

    def _decompose(self, weight, norm):
        return Product(Dense(weight.clone()), Dense(torch.eye(weight.shape[1]).to(weight)))


class ExactSpatial(Exact):
    def kernel_view(self):
        return "spatial"


class ExactChannelsLast(Exact):
    def kernel_view(self):
        return "channels_last"


@pytest.mark.parametrize("method", [Exact(), ExactSpatial(), ExactChannelsLast()])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=False),
        nn.Conv2d(4, 6, 3, groups=2, padding=1),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 6, 3, padding="same"),
        nn.Conv2d(4, 6, (4, 3), padding="same", dilation=2),
        nn.Conv2d(4, 6, 3, padding="valid"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", stride=2),
        nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="circular", groups=2),
        nn.Conv2d(4, 6, 1),
    ],
    ids=lambda value: str(value)[:60],
)
def test_convolution(layer, method):
    layer = layer.double()
    replaced = compress(layer, method).model
    x = torch.randn(2, 4, 11, 12, dtype=torch.float64)
    torch.testing.assert_close(replaced(x), layer(x))
    torch.testing.assert_close(replaced(x[0]), layer(x[0]))
    torch.testing.assert_close(replaced.weight.detach(), layer.weight.detach())


def test_n_m_sparsity_is_over_input_channels():
    """2:4 in a kernel keeps two of every four input channels at each position of each filter."""
    layer = compress(nn.Conv2d(8, 6, 3), MagnitudePruning(pattern="2:4")).model
    kept = (layer.weight != 0).permute(0, 2, 3, 1).reshape(6, 3, 3, 2, 4).sum(-1)
    assert (kept == 2).all()


def test_linear_with_and_without_bias():
    for bias in (True, False):
        layer = nn.Linear(5, 7, bias=bias).double()
        x = torch.randn(2, 3, 5, dtype=torch.float64)
        torch.testing.assert_close(compress(layer, Exact()).model(x), layer(x))


def test_embedding():
    layer = nn.Embedding(20, 6, padding_idx=3).double()
    replaced = compress(layer, Exact()).model
    x = torch.randint(0, 20, (4, 5))
    torch.testing.assert_close(replaced(x), layer(x))


def test_an_embedding_that_renormalises_its_rows_is_left_and_reported():
    model = nn.Sequential(nn.Embedding(20, 6, max_norm=1.0), nn.Linear(6, 6))
    result = compress(model, Quantization(8))
    assert [layer.name for layer in result.layers] == ["1"]
    assert [name for name, _ in result.skipped] == ["0.weight"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(training, batch_first):
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).double().train(training)
    result = compress(attention, Exact())
    assert [layer.name for layer in result.layers] == ["", "out_proj"]
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    mask = torch.zeros(x.shape[1] if batch_first else x.shape[0], dtype=torch.bool)
    mask[-1] = True
    mask = mask.expand(x.shape[0] if batch_first else x.shape[1], -1)
    expected = attention(x, x, x, key_padding_mask=mask)
    actual = result.model(x, x, x, key_padding_mask=mask)
    torch.testing.assert_close(actual, expected)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("method", [Exact(), Quantization(8), TruncatedSVD(rank=2)])
def test_transformer_encoder_runs_its_factors(method):
    """In evaluation PyTorch reads weights instead of calling layers; the result must not differ."""
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    model = compress(encoder, method).model
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        evaluated = model(x)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        called = model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    torch.testing.assert_close(evaluated, called)


def test_gpt2_conv1d_and_its_tied_embedding():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=12,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.GPT2LMHeadModel(config).double().eval()
    result = compress(model, Exact())
    tokens = torch.randint(0, 50, (2, 9))
    torch.testing.assert_close(result.model(tokens).logits, model(tokens).logits)
    by_name = {layer.name: layer for layer in result.layers}
    assert by_name["transformer.wte"].tied_to == ["lm_head"]
    assert by_name["transformer.h.0.attn.c_attn"].shape == (36, 12)
    assert result.model.lm_head.factorization is result.model.transformer.wte.factorization


def test_tied_weights_are_decomposed_once_and_stay_tied():
    model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 30, bias=False))
    model[2].weight = model[0].weight
    result = compress(model, TruncatedSVD(rank=2))
    assert [layer.name for layer in result.layers] == ["0", "1"]
    assert result.layers[0].tied_to == ["2"]
    assert result.model[0].factorization is result.model[2].factorization


def test_weights_that_are_read_as_different_matrices_are_an_error():
    utils = pytest.importorskip("transformers.pytorch_utils")
    model = nn.ModuleDict({"a": utils.Conv1D(6, 4), "b": nn.Linear(6, 4)})
    model["b"].weight = model["a"].weight
    with pytest.raises(ValueError, match=r"read it as different matrices: \{'a': \(6, 4\), 'b'"):
        compress(model, Quantization(8))


def test_a_subclass_with_its_own_forward_is_not_taken_for_its_parent():
    class Odd(nn.Linear):
        def forward(self, x):
            return x

    assert rule_for(Odd(3, 3)) is None
    assert rule_for(nn.modules.linear.NonDynamicallyQuantizableLinear(3, 3)) is not None


def test_a_weight_that_an_unknown_module_uses_too_stays_as_it_is():
    """Otherwise one of the two would be untied, and would share its memory with the input model."""

    class ScaledEmbedding(nn.Embedding):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(ScaledEmbedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 30, bias=False))
    model[2].weight = model[0].weight
    result = compress(model, Quantization(4))
    assert [layer.name for layer in result.layers] == ["1"]
    assert [name for name, _ in result.skipped] == ["0.weight"]
    assert result.model[0].weight is result.model[2].weight
    assert result.model[0].weight is not model[0].weight


def test_a_convolution_that_changes_its_kernel_is_not_taken_for_its_parent():
    class Standardised(nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x, weight - weight.mean(), bias)

    assert rule_for(Standardised(3, 3, 1)) is None
    assert rule_for(nn.Conv2d(3, 3, 1)) is not None


def test_an_empty_batch_gives_an_empty_output():
    layer = compress(nn.Conv2d(8, 6, 3, groups=2), Exact()).model
    assert layer(torch.zeros(0, 8, 6, 6)).shape == (0, 6, 4, 4)


def test_factors_that_a_layer_cannot_run_are_reported_as_multiplied():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(60, 24)
            self.grouped, self.whole = nn.Conv2d(12, 24, 3, groups=2), nn.Conv2d(12, 24, 3)

        def forward(self, indices, x):
            return self.table(indices), self.grouped(x), self.whole(x)

    torch.manual_seed(0)
    result = compress(Model(), BlockLowRank(2, (2, 2)))
    assert [layer.factorization.split()[0] for layer in result.layers] == ["LowRankBlocks"] * 3
    kernels = {layer.name: layer.kernel for layer in result.layers}
    said = "factors multiplied"
    assert kernels == {"table": said, "grouped": said, "whole": "factored"}


def test_what_attention_reads_is_reported_as_multiplied_out():
    x = torch.randn(1, 5, 8)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    result = compress(attention, Exact(), example=(x, x, x))
    assert [layer.kernel for layer in result.layers] == ["multiplied out"] * 2
    assert [layer.macs for layer in result.layers] == [None, None]
