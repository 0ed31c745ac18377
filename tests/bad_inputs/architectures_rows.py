"""Models into which a file does not fit."""

import torch
from files import FOUR_BITS, convolution, linear, saved, two
from row import Row
from torch import nn

from lowrank.compression.compress import compress
from lowrank.export import checkpoint


def into(other, layer=linear, method=FOUR_BITS):
    """Load a model of one compressed layer into a model of another."""
    return lambda folder: checkpoint.load(saved(folder, layer, method), nn.Sequential(other()))


def shallow_into_deep(folder):
    return checkpoint.load(saved(folder), two())


def deep_into_shallow(folder):
    checkpoint.save(compress(two(), FOUR_BITS).model, folder / "m")
    return checkpoint.load(folder / "m", nn.Sequential(linear()))


def renamed_module(folder):
    torch_model = nn.Module()
    torch_model.layer = linear()
    return checkpoint.load(saved(folder), torch_model)


def on_meta(folder):
    model = nn.Sequential(linear())
    model.register_buffer("mask", torch.ones(3, device="meta"), persistent=False)
    return checkpoint.load(saved(folder), model)


def compressed_already(folder):
    path = saved(folder)
    return checkpoint.load(path, compress(nn.Sequential(linear()), FOUR_BITS).model)


ROWS = [
    Row("wider layer", into(lambda: nn.Linear(13, 8)), r"'0' is \(8, 12\) .* and \(8, 13\)"),
    Row("one row for many", into(lambda: nn.Linear(12, 1)), r"and \(1, 12\)"),
    Row("no bias", into(lambda: nn.Linear(12, 8, bias=False)), "besides"),
    Row("bias too", into(linear, lambda: nn.Linear(12, 8, bias=False)), "lacks .'0.bias'"),
    Row("float64", into(lambda: linear().double()), "model.to.torch.float32"),
    Row("bfloat16", into(lambda: linear().bfloat16()), "torch.bfloat16 in the model"),
    Row(
        "table for linear",
        into(lambda: nn.Embedding(8, 12), lambda: nn.Linear(12, 8, bias=False)),
        "'kind': 'linear'.* in the file and .*'embedding'",
    ),
    Row(
        "linear for table",
        into(lambda: nn.Linear(12, 8, bias=False), lambda: nn.Embedding(8, 12)),
        "'kind': 'embedding'.* in the file",
    ),
    Row("kernel for linear", into(lambda: nn.Conv2d(12, 8, 1)), "'kind': 'linear'"),
    Row("kernel of other sides", into(lambda: nn.Conv2d(36, 8, 1), convolution), r"\[3, 3\]"),
    Row("kernel with groups", into(lambda: nn.Conv2d(8, 8, 3, groups=2), convolution), "'groups'"),
    Row("kernel with steps", into(lambda: nn.Conv2d(4, 8, 3, 2), convolution), r"'stride': \[2"),
    Row("kernel that pads", into(lambda: nn.Conv2d(4, 8, 3, padding="same"), convolution), "same"),
    Row(
        "attention",
        into(lambda: nn.MultiheadAttention(12, 2)),
        r"'0' is \(8, 12\) .* and \(36, 12\)",
    ),
    Row(
        "kernel of another axis", into(lambda: nn.Conv1d(4, 8, 9), convolution), "'conv2d'.*conv1d"
    ),
    Row(
        "kernel for transposed one",
        into(lambda: nn.ConvTranspose2d(4, 8, 3), convolution),
        "'kind': 'conv2d'.* in the file and .*'conv_transpose2d'",
    ),
    Row(
        "output padding",
        into(
            lambda: nn.ConvTranspose1d(4, 8, 3, 2, output_padding=1),
            lambda: nn.ConvTranspose1d(4, 8, 3, 2),
        ),
        r"'output_padding': \[0\].* in the file and .*'output_padding': \[1\]",
    ),
    Row(
        "other sides of a pair",
        into(lambda: nn.Bilinear(3, 4, 8), lambda: nn.Bilinear(4, 3, 8)),
        "'in1_features': 4.* in the file and .*'in1_features': 3",
    ),
    Row(
        "fewer gates",
        into(lambda: nn.GRU(12, 8), lambda: nn.LSTM(12, 8)),
        r"'0.ih_l0' is \(32, 12\).* and \(24, 12\)",
    ),
    Row(
        "fewer layers",
        into(lambda: nn.GRU(12, 8), lambda: nn.GRU(12, 8, 2)),
        "no module '0.ih_l1', which the file holds",
    ),
    Row(
        "one way only",
        into(lambda: nn.RNN(12, 8), lambda: nn.RNN(12, 8, bidirectional=True)),
        "0.ih",
    ),
    Row("linear for gates", into(linear, lambda: nn.GRU(12, 8)), "no module '0.ih_l0'"),
    Row("no weight", into(nn.ReLU), "'0' is a ReLU in the model, which holds no weight"),
    Row("layer of no shape", into(lambda: nn.LazyLinear(8)), "no shape yet: run it once"),
    Row("deeper model", shallow_into_deep, r"lacks \['1.bias', '1.weight'\]"),
    Row("shallower model", deep_into_shallow, "no module '1', which the file holds"),
    Row("other names", renamed_module, "no module '0', which the file holds"),
    Row("skeleton lacks a buffer", on_meta, "'mask'.*build the model on the CPU"),
    Row("compressed skeleton", compressed_already, "FactorizedLinear in the model"),
    Row("no skeleton", lambda f: checkpoint.load(saved(f)), "not say how its model is built: give"),
    Row("a name", lambda f: checkpoint.load(saved(f), "Linear"), "must be a torch module"),
    Row(
        "a builder of another", lambda f: checkpoint.load(saved(f), list), "must be a torch module"
    ),
    Row(
        "a class that needs arguments",
        lambda f: checkpoint.load(saved(f), nn.Linear),
        r"called without arguments, .*'in_features'.*: give one such as lambda",
    ),
    Row(
        "the model first",
        lambda f: checkpoint.load(two(), saved(f)),
        r"path is a Sequential .* The file comes first: load\(path, model\)",
    ),
]
