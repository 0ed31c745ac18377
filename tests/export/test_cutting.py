"""Channels that carry nothing are cut out of models, whose outputs stay the same."""

import copy

import pytest
import torch
from torch import nn

from lowrank import MagnitudePruning, Select, Uncompressed, compress
from lowrank.export.cutting import cut_model
from lowrank.tasks.networks.cifar_resnet import CifarResNet

pytest.importorskip("torch_pruning")


def zero(layer, rows=(), columns=()):
    with torch.no_grad():
        layer.weight[list(rows)] = 0
        layer.weight[:, list(columns)] = 0


def check_equal(result, model, *inputs, **named):
    with torch.no_grad():
        one, other = result.model(*inputs, **named), model(*inputs, **named)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def sizes(result):
    return {layer.name: layer.after for layer in result.cut}


def mlp(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *between, nn.Linear(8, 5)).eval()


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Softplus()])
def test_rows_of_zeros_are_cut_and_what_their_biases_leave_is_folded(activation):
    model = mlp(activation)
    zero(model[0], rows=[1, 4, 7])
    before = copy.deepcopy(model.state_dict())
    result = cut_model(model, torch.zeros(2, 6))
    assert sizes(result) == {"0": (5, 6), "2": (5, 5)} and not result.left
    check_equal(result, model, torch.randn(10, 6))
    check_equal(result, model, torch.randn(3, 4, 6))
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_columns_of_zeros_cut_what_makes_them_whatever_it_is():
    model = mlp(nn.Tanh())
    zero(model[2], columns=[0, 3])
    result = cut_model(model, torch.zeros(2, 6))
    assert sizes(result) == {"0": (6, 6), "2": (5, 6)}
    check_equal(result, model, torch.randn(10, 6))


def test_a_layer_without_a_bias_gets_one_for_a_constant():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5, bias=False)).eval()
    zero(model[0], rows=[2])
    result = cut_model(model, torch.zeros(2, 6))
    assert result.model[1].bias is not None and model[1].bias is None
    check_equal(result, model, torch.randn(10, 6))


def test_rows_that_become_zero_when_others_are_cut_are_cut_too():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model.eval()
    zero(model[0], rows=[0])
    with torch.no_grad():
        model[2].weight[3, 1:] = 0  # It reads only what is cut.
    result = cut_model(model, torch.zeros(2, 6))
    assert sizes(result) == {"0": (7, 6), "2": (7, 7), "4": (3, 7)}
    check_equal(result, model, torch.randn(10, 6))


def test_what_is_returned_or_given_is_left_and_named():
    model = mlp(nn.ReLU())
    zero(model[0], columns=[2])
    zero(model[2], rows=[1])
    result = cut_model(model, torch.zeros(2, 6))
    assert not result.cut
    assert result.left == (
        ("0", "Torch-Pruning finds nothing that is cut with them"),
        ("2", "the model returns them"),
    )


def test_one_channel_stays():
    model = mlp(nn.ReLU())
    zero(model[0], rows=range(8))
    result = cut_model(model, torch.zeros(2, 6))
    assert sizes(result) == {"0": (1, 6), "2": (5, 1)}
    assert result.left == (("0", "a layer has at least one channel"),)
    check_equal(result, model, torch.randn(10, 6))


class Gated(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6)
        self.mix = mix

    def forward(self, x):
        return x + self.down(self.mix(self.gate(x)) * self.up(x))


def test_layers_whose_outputs_meet_are_cut_together():
    torch.manual_seed(0)
    model = Gated(nn.SiLU()).eval()
    zero(model.gate, rows=[1, 2])
    zero(model.up, rows=[2, 3])
    result = cut_model(model, torch.zeros(2, 6))
    assert sizes(result) == {"up": (7, 6), "gate": (7, 6), "down": (6, 7)}
    reason = "they are zero in some of the layers that are added or multiplied only"
    assert dict(result.left) == {"up": reason, "gate": reason}
    check_equal(result, model, torch.randn(10, 6))


def test_operations_in_which_channels_meet_are_refused_by_name():
    model = Gated(nn.Softmax(dim=-1)).eval()
    zero(model.gate, rows=[1])
    zero(model.up, rows=[1])
    result = cut_model(model, torch.zeros(2, 6))
    assert not result.cut
    assert dict(result.left)["gate"] == "they go through Softmax, which may mix channels"


def convolutions(bias):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    nn.init.constant_(norm.bias, bias)
    layers = [nn.Conv2d(3, 8, 3, bias=False), norm, nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)).eval()


@pytest.mark.parametrize(("bias", "cut"), [(0.0, True), (-1.0, True), (1.0, False)])
def test_what_batchnorm_leaves_is_cut_where_padding_shows_no_border(bias, cut):
    model = convolutions(bias)
    zero(model[0], rows=[0, 5])
    result = cut_model(model, torch.zeros(2, 3, 9, 9))
    check_equal(result, model, torch.randn(4, 3, 9, 9))
    if cut:
        assert sizes(result) == {"0": (6, 3), "3": (4, 6)} and not result.left
        assert result.model[1].num_features == 6
    else:
        reason = "they are a constant that is not zero, and a convolution that pads reads it"
        assert not result.cut and result.left == (("0", reason),)


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_channels_are_cut_through_flattening(bias):
    model = convolutions(1.0)
    nn.init.constant_(model[3].bias, bias)
    zero(model[3], rows=[1])
    result = cut_model(model, torch.zeros(2, 3, 9, 9))
    assert sizes(result) == {"3": (3, 8), "6": (5, 12)}
    check_equal(result, model, torch.randn(4, 3, 9, 9))


def test_constants_enter_convolutions_that_do_not_pad():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 6, 2), nn.Sigmoid(), nn.Conv1d(6, 4, 3)).eval()
    zero(model[0], rows=[0, 5])
    result = cut_model(model, torch.zeros(2, 3, 9))
    assert sizes(result) == {"0": (4, 3), "2": (4, 4)}
    check_equal(result, model, torch.randn(4, 3, 12))


def test_rows_of_a_resnet_are_cut_inside_of_its_blocks():
    torch.manual_seed(0)
    dense = CifarResNet(20).eval()
    where = Select(include="*.conv1", first=False)
    model = compress(dense, MagnitudePruning(0.5, pattern="rows"), where=where).model
    result = cut_model(model, torch.zeros(1, 3, 16, 16))
    assert len(result.cut) == 18
    count, dense_count = (sum(p.numel() for p in m.parameters()) for m in (result.model, dense))
    assert count < 0.55 * dense_count
    check_equal(result, model, torch.randn(2, 3, 16, 16))


def test_the_mlp_of_a_llama_is_cut():
    transformers = pytest.importorskip("transformers")
    sizes_of = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**sizes_of, **heads, max_position_embeddings=32)
    dense = transformers.LlamaForCausalLM(config).eval()
    model = compress(
        dense, MagnitudePruning(0.5, pattern="columns"), where=Select(include="*.down_proj")
    ).model
    zero(model.model.layers[0].self_attn.q_proj, rows=[0])
    result = cut_model(model)
    assert sizes(result)["model.layers.1.mlp.up_proj"] == (12, 16)
    assert len(result.cut) == 6
    ids = torch.arange(20).view(2, 10)
    with torch.no_grad():
        one, other = result.model(input_ids=ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(one, other)
    assert "which may mix channels" in dict(result.left)["model.layers.0.self_attn.q_proj"]


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x).detach()


def test_what_cannot_be_traced_or_run_is_refused():
    with pytest.raises(ValueError, match="Torch-Pruning cannot trace Untraceable, so that nothing"):
        cut_model(Untraceable(), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="Sequential does not take the example: RuntimeError"):
        cut_model(mlp(), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="nothing says which inputs Sequential takes"):
        cut_model(mlp())


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("scale", torch.arange(1.0, 5.0))

    def forward(self, x):
        return self.last(self.first(x) * self.scale)


def test_a_cut_that_breaks_the_model_is_undone():
    """A buffer of the channels' number is in no graph."""
    model = Scaled().eval()
    zero(model.first, rows=[1])
    result = cut_model(model, torch.zeros(2, 4))
    assert not result.cut and "breaks the model" in dict(result.left)["first"]
    check_equal(result, model, torch.randn(3, 4))
    same = compress(model, Uncompressed()).model
    check_equal(cut_model(same, torch.zeros(2, 4)), model, torch.randn(3, 4))
