"""A checkpoint loads into the architecture that it was saved from, and into no other."""

import copy

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import (
    GPTQ,
    CodebookQuantization,
    EntropyCodedQuantization,
    HalfPrecision,
    LoRA,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
    Uncompressed,
)
from lowrank.export import checkpoint

METHODS = [
    TruncatedSVD(rank=2),
    Quantization(4),
    Quantization(3, group_size=4, symmetric=False),
    CodebookQuantization(2),
    EntropyCodedQuantization(3),
    HalfPrecision(),
    Uncompressed(),
    MagnitudePruning(0.5),
    MagnitudePruning(0.97),
    LoRA(rank=2, alpha=4, dropout=0.5),
]
# Of equal or similar tensors, and yet not the same layer.
OTHERS = {
    "wider": (lambda: nn.Linear(12, 8), lambda: nn.Linear(24, 8)),
    "taller": (lambda: nn.Linear(12, 8), lambda: nn.Linear(12, 16)),
    "transposed": (lambda: nn.Linear(12, 8, bias=False), lambda: nn.Linear(8, 12, bias=False)),
    "without bias": (lambda: nn.Linear(12, 8), lambda: nn.Linear(12, 8, bias=False)),
    "of another dtype": (lambda: nn.Linear(12, 8), lambda: nn.Linear(12, 8).double()),
    "a table for a product": (
        lambda: nn.Linear(8, 12, bias=False),
        lambda: nn.Embedding(12, 8),
    ),
    "a product for a table": (
        lambda: nn.Embedding(12, 8),
        lambda: nn.Linear(8, 12, bias=False),
    ),
    "more rows of a table": (lambda: nn.Embedding(12, 8), lambda: nn.Embedding(500, 8)),
    "a kernel of one position": (lambda: nn.Conv2d(3, 8, 2), lambda: nn.Conv2d(12, 8, 1)),
    "a kernel turned": (lambda: nn.Conv2d(3, 8, (2, 3)), lambda: nn.Conv2d(3, 8, (3, 2))),
    "a linear layer for a kernel": (lambda: nn.Conv2d(12, 8, 1), lambda: nn.Linear(12, 8)),
    "other groups": (lambda: nn.Conv2d(4, 8, 3, groups=2), lambda: nn.Conv2d(2, 8, 3)),
    "another stride": (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(3, 8, 3, stride=2)),
    "another padding": (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(3, 8, 3, padding=1)),
    "another dilation": (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(3, 8, 3, dilation=2)),
    "another padding mode": (
        lambda: nn.Conv2d(3, 8, 3, padding=1),
        lambda: nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"),
    ),
    "other heads": (lambda: nn.MultiheadAttention(8, 2), lambda: nn.MultiheadAttention(8, 4)),
    "no layer": (lambda: nn.Linear(12, 8), nn.ReLU),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_another_layer_is_refused(tmp_path, other, method):
    saved, wanted = (make() for make in OTHERS[other])
    small = compress(nn.Sequential(saved), method).model
    checkpoint.save(small, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors: .*'?0") as caught:
        checkpoint.load(tmp_path / "m.safetensors", nn.Sequential(wanted))
    assert "model" in str(caught.value)
    same = checkpoint.load(tmp_path / "m.safetensors", nn.Sequential(copy.deepcopy(saved)))
    assert same.state_dict().keys() == small.state_dict().keys()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.append(nn.Linear(4, 4)), "lacks .'2.bias', '2.weight'. and has .. besides"),
        (lambda m: m.pop(1), r"has \['1.bias', '1.weight'\] besides"),
        (lambda m: m.insert(0, nn.ReLU()), "'0' is a ReLU in the model, which holds no weight"),
        (lambda m: m.__setitem__(1, nn.Linear(8, 5)), r"'1.weight' is \(4, 8\) .* \(5, 8\)"),
        (lambda m: m[1].bfloat16(), r"'1.weight' .*convert .*model.to\(torch.float32\)"),
        (lambda m: m[0].half(), r"'0' .*convert the model first, `model.to\(torch.float32\)"),
        (lambda m: m[1].register_buffer("x", torch.ones(1)), "lacks .'1.x'"),
    ],
)
def test_a_model_that_differs_elsewhere_is_refused(tmp_path, change, text):
    def network():
        return nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4))

    checkpoint.save(compress(network(), Quantization(4), where="0").model, tmp_path / "m")
    other = network()
    change(other)
    with pytest.raises(ValueError, match=text):
        checkpoint.load(tmp_path / "m", other)


class Rotating(nn.Module):
    """A layer, and a buffer that no file holds."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.register_buffer("turns", torch.arange(6.0), persistent=False)

    def forward(self, x):
        return self.layer(x) * self.turns


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_skeleton_without_memory_gives_a_model_that_runs(tmp_path, method):
    def network():
        return nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).eval()

    small = compress(network(), method).model
    checkpoint.save(small, tmp_path / "m")
    with torch.device("meta"):
        skeleton = network()
    loaded = checkpoint.load(tmp_path / "m", skeleton)
    x = torch.randn(3, 12)
    assert torch.equal(loaded(x), small(x))
    assert {t.device.type for t in (*loaded.parameters(), *loaded.buffers())} == {"cpu"}
    assert all(tensor.is_meta for tensor in skeleton.state_dict().values())
    assert torch.equal(loaded.double()(x.double()), copy.deepcopy(small).double()(x.double()))


def test_a_skeleton_without_memory_keeps_references_of_its_own(tmp_path):
    def network():
        return nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 3))

    model, x = network(), torch.randn(2, 4)
    for where in ("0", "1.*"):
        small = compress(model, Quantization(8), where=where).model
        checkpoint.save(small, tmp_path / "m")
        with torch.device("meta"):
            loaded = checkpoint.load(tmp_path / "m", network())
        assert torch.equal(loaded[1](x)[0], small[1](x)[0])


def test_what_a_skeleton_lacks_and_no_file_holds_is_named(tmp_path):
    checkpoint.save(compress(Rotating(), Quantization(4)).model, tmp_path / "m")
    with torch.device("meta"):
        skeleton = Rotating()
    with pytest.raises(ValueError, match="'turns'.* meta device.*build the model on the CPU"):
        checkpoint.load(tmp_path / "m", skeleton)
    skeleton.turns = torch.arange(6.0)
    assert checkpoint.load(tmp_path / "m", skeleton).turns.sum() == 15


def test_it_goes_where_it_is_asked_to(tmp_path):
    checkpoint.save(compress(Rotating(), Quantization(4)).model, tmp_path / "m")
    for device in ("cpu", torch.device("cpu")):
        loaded = checkpoint.load(tmp_path / "m", Rotating(), device=device)
        assert {t.device.type for t in (*loaded.parameters(), *loaded.buffers())} == {"cpu"}


def test_a_model_without_its_numbers_is_not_saved(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    model[1] = model[1].to("meta")
    small = compress(model, Quantization(4), where="0").model
    with pytest.raises(ValueError, match="'1.weight' cannot be saved: it is on the meta device"):
        checkpoint.save(small, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_layers_come_back_in_the_mode_of_the_skeleton(tmp_path):
    """Else the dropout of an adapter would act at evaluation."""
    model = nn.Sequential(nn.Linear(8, 8)).eval()
    checkpoint.save(compress(model, LoRA(rank=2, alpha=4, dropout=0.5)).model, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m", model)
    assert not any(module.training for module in loaded.modules())


def test_what_was_loaded_can_be_trained_even_if_it_was_in_inference_mode(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8))
    checkpoint.save(compress(model, TruncatedSVD(rank=2)).model, tmp_path / "m")
    with torch.inference_mode():
        loaded = checkpoint.load(tmp_path / "m", model)
    loaded(torch.randn(2, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_hooks_of_a_layer_act_on_what_stands_in_for_it(tmp_path):
    model, seen = nn.Sequential(nn.Linear(8, 8)), []
    checkpoint.save(compress(model, Quantization(8)).model, tmp_path / "m")
    model[0].register_forward_hook(lambda *_: seen.append(1))
    checkpoint.load(tmp_path / "m", model)(torch.randn(1, 8))
    assert seen == [1]


def test_a_root_that_is_a_layer_itself(tmp_path):
    model = nn.Linear(12, 8)
    small = compress(model, GPTQ(4)).model
    checkpoint.save(small, tmp_path / "m")
    x = torch.randn(2, 12)
    assert torch.equal(checkpoint.load(tmp_path / "m", model)(x), small(x))
