"""Channels that carry nothing are cut out of models, whose outputs stay the same."""

import copy
import importlib.util
import sys

import pytest
import torch
from torch import nn

from experiments import command
from lowrank import (
    MagnitudePruning,
    Quantization,
    Select,
    TruncatedSVD,
    Uncompressed,
    compress,
    export_model,
    load,
    save,
)
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


CONCATENATED = "they go into a concatenation, and channels of those stay"
SPLIT = "they are split into parts, and channels of those stay"


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 6, 3)
        self.head = nn.Conv2d(14, 5, 1)

    def forward(self, x):
        return self.head(torch.cat([self.one(x).relu(), self.two(x)], 1))


class Split(nn.Module):
    def __init__(self):
        super().__init__()
        self.both, self.head = nn.Linear(6, 16), nn.Linear(8, 5)

    def forward(self, x):
        gate, value = self.both(x).chunk(2, dim=-1)
        return self.head(gate.sigmoid() * value)


class Stream(nn.Module):
    """A residual stream, which LayerNorm reads, and a branch beside it."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 5)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.down(self.up(self.norm(x)).relu())
        return self.head(self.norm(x))


def grouped(groups):
    layers = [nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=groups), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 5, 1))


NORMED = "they go through LayerNorm, which may mix channels"
ROWS_OF_GROUPS = "it is a convolution in groups, and rows of those stay"
# Network, rows and columns of zeros by layer, sizes of what is cut, and why others are left.
LEFT = {
    "rows before a concatenation": (
        Concatenated,
        {"one": ([1, 2], []), "two": ([0], [])},
        {},
        {"one": CONCATENATED, "two": CONCATENATED},
    ),
    "columns behind one": (Concatenated, {"head": ([], [1, 9])}, {}, {"head": CONCATENATED}),
    "rows before a split": (Split, {"both": ([1, 9], [])}, {}, {"both": SPLIT}),
    "columns behind one split": (Split, {"head": ([], [1])}, {}, {"head": SPLIT}),
    "a stream": (
        Stream,
        {"embed": ([1], []), "down": ([1], []), "up": ([3], [])},
        {"up": (15, 8), "down": (8, 15)},
        {"embed": NORMED, "down": NORMED},
    ),
    "groups": (
        lambda: grouped(2),
        {"0": ([1, 2, 5, 6], []), "2": ([0], [])},
        {},
        {"0": "they go through a Conv2d in groups, which may mix channels", "2": ROWS_OF_GROUPS},
    ),
    "rows of each channel by itself": (
        lambda: grouped(8),
        {"0": ([1, 2], []), "2": ([0], [])},
        {"0": (6, 3), "4": (5, 6)},
        {"2": ROWS_OF_GROUPS},
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_channels_that_have_other_places_or_meet_are_left_and_named(name):
    make, zeros, cut, left = LEFT[name]
    torch.manual_seed(0)
    model = make().eval()
    for layer, (rows, columns) in zeros.items():
        zero(model.get_submodule(layer), rows, columns)
    shape = (3, 9, 9) if any(isinstance(m, nn.Conv2d) for m in model.modules()) else (6,)
    result = cut_model(model, torch.zeros(2, *shape))
    assert (sizes(result), dict(result.left)) == (cut, left)
    check_equal(result, model, torch.randn(4, *shape))


def llama(**others):
    transformers = pytest.importorskip("transformers")
    sizes_of = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **(sizes_of | heads | {"max_position_embeddings": 32} | others)
    )
    return transformers.LlamaForCausalLM(config).eval()


def without_columns(dense, share, include):
    """The model with columns of zeros, the same share in each of some layers."""
    method = MagnitudePruning(share, pattern="columns")
    return compress(dense, method, where=Select(include=include)).model


def check_llama(one, other):
    ids = torch.arange(20).view(2, 10)
    with torch.no_grad():
        found, wanted = one(input_ids=ids).logits, other(input_ids=ids).logits
    torch.testing.assert_close(found, wanted)


def test_the_mlp_of_a_llama_is_cut():
    model = without_columns(llama(), 0.5, "*.down_proj")
    zero(model.model.layers[0].self_attn.q_proj, rows=[0])
    result = cut_model(model)
    assert sizes(result)["model.layers.1.mlp.up_proj"] == (12, 16)
    assert len(result.cut) == 6
    check_llama(result.model, model)
    assert "which may mix channels" in dict(result.left)["model.layers.0.self_attn.q_proj"]


# Other fields of the config may have the same number.
@pytest.mark.parametrize(
    "others", [{}, {"intermediate_size": 16}, {"max_position_embeddings": 24, "vocab_size": 24}]
)
def test_a_cut_llama_is_loaded_by_transformers_where_its_config_can_say_the_sizes(others, tmp_path):
    transformers = pytest.importorskip("transformers")
    dense = llama(**others)
    width = dense.config.intermediate_size
    model = without_columns(dense, 0.25, "*.down_proj")
    small = cut_model(model).model
    export_model(small, "hf", tmp_path / "out", tokenizer=None)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    config = dense.config.to_dict() | {"intermediate_size": 3 * width // 4}
    changes = {"dtype", "_name_or_path", "architectures", "transformers_version"}
    for name in config.keys() - changes:
        assert loaded.config.to_dict()[name] == config[name], name
    assert dense.config.intermediate_size == model.config.intermediate_size == width
    check_llama(loaded.eval(), model)
    save(small, tmp_path / "small")
    check_llama(load(tmp_path / "small"), model)
    # Compressed again, it has the same sizes.
    again = compress(small, Quantization(bits=8), where=Select(include="*_proj")).model
    export_model(again, "hf", tmp_path / "8", tokenizer=None)


@pytest.mark.parametrize("format", ["hf", "gguf", "dense"])
def test_the_command_cuts_before_any_format(format, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    words = ["--format", format, "--cut", "--out", str(tmp_path / "out")]
    if format == "gguf":
        pytest.importorskip("gguf")
    words += ["--no-tokenizer"] if format != "dense" else []
    save(without_columns(llama(), 0.25, "*.down_proj"), tmp_path / "m")
    monkeypatch.setattr("sys.argv", ["lowrank", "export", str(tmp_path / "m"), *words])
    command.main()
    said = capsys.readouterr().out
    assert "cut: " in said and "down_proj: 24→16 is cut to 18→16" in said
    assert len(list((tmp_path / "out").glob("model.*"))) == 1
    save(compress(llama(), TruncatedSVD(rank=2)).model, tmp_path / "low rank")
    monkeypatch.setattr("sys.argv", ["lowrank", "export", str(tmp_path / "low rank"), *words[:3]])
    monkeypatch.setattr("sys.argv", [*sys.argv, "--plan", *words[5:]])
    if format == "dense":
        command.main()
    else:
        with pytest.raises(SystemExit, match=r"q_proj.0.weight|no place for"):
            command.main()


def test_a_cut_encoder_and_decoder_have_a_size_each(tmp_path):
    transformers = pytest.importorskip("transformers")
    counts = {"encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 24}
    counts |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 16}
    widths = {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 40}
    torch.manual_seed(0)
    dense = transformers.BartForConditionalGeneration(transformers.BartConfig(**counts, **widths))
    small = cut_model(without_columns(dense.eval(), 0.5, "*.fc2")).model
    assert small.config.encoder_ffn_dim == small.config.decoder_ffn_dim == 12
    assert small.config.max_position_embeddings == 24
    export_model(small, "hf", tmp_path / "out", tokenizer=None)
    transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_layers_of_several_sizes_are_refused_where_the_config_has_one(format, tmp_path):
    if format == "gguf":
        pytest.importorskip("gguf")
    model = without_columns(llama(), 0.5, "*.1.mlp.down_proj")
    result = cut_model(model)
    assert sizes(result)["model.layers.1.mlp.up_proj"] == (12, 16) and len(result.cut) == 3
    assert result.model.config.intermediate_size == 24
    says = r"gate_proj.*the first is \(12, 16\) here and \(24, 16\) there.*format='plain'"
    with pytest.raises(ValueError, match=says):
        export_model(result.model, format, tmp_path / "out", tokenizer=None)
    assert not list(tmp_path.iterdir())
    export_model(model, "plain", tmp_path / "plain", cut=True)
    load_code = importlib.util.spec_from_file_location("loads", tmp_path / "plain" / "load.py")
    program = importlib.util.module_from_spec(load_code)
    load_code.loader.exec_module(program)
    check_llama(program.load(llama()), model)


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
