"""What is stored is what is counted is what is run."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import LoRA, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.export import checkpoint
from lowrank.measure.size import nbytes

METHODS = [
    TruncatedSVD(rank=2),
    MagnitudePruning(0.7),
    MagnitudePruning(pattern="2:4"),
    Quantization(3, group_size=5),
    LoRA(rank=2, alpha=4, base=Quantization(4)),
]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(12, 8), nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 8), nn.Linear(8, 12)
    )
    model[4].weight = model[0].weight
    return model


def blank() -> nn.Sequential:
    model = network()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_loaded_model_gives_the_same_outputs_bit_for_bit(tmp_path, method):
    model = compress(network(), method).model
    checkpoint.save(model, tmp_path / "model.safetensors")
    loaded = checkpoint.load(tmp_path / "model.safetensors", blank())
    tokens = torch.arange(12)
    assert torch.equal(model(tokens), loaded(tokens))
    assert loaded[0].factorization is loaded[4].factorization
    own = {name: p.requires_grad for name, p in model.named_parameters()}
    assert own == {name: p.requires_grad for name, p in loaded.named_parameters()}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_counted_bytes_are_those_of_the_file_less_its_header(tmp_path, method):
    path = tmp_path / "model.safetensors"
    model = compress(network(), method).model
    checkpoint.save(model, path)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size - header == nbytes(model)


def test_a_model_that_is_not_compressed_can_be_saved_too(tmp_path):
    checkpoint.save(network(), tmp_path / "dense.safetensors")
    loaded = checkpoint.load(tmp_path / "dense.safetensors", blank())
    assert torch.equal(loaded(torch.arange(12)), network()(torch.arange(12)))


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    checkpoint.save(network(), path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(compress(network(), Quantization(4)).model, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_others_may_read_the_file_as_the_umask_says(tmp_path):
    (tmp_path / "other").touch()
    checkpoint.save(network(), tmp_path / "model.safetensors")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_the_header_is_json_that_names_the_forms(tmp_path):
    checkpoint.save(compress(network(), TruncatedSVD(rank=2)).model, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        structure = json.loads(file.metadata()["lowrank"])
    assert structure["layers"][0]["config"]["type"] == "Product"
    assert structure["layers"][0]["modules"] == ["0", "4"]
    assert [kind["kind"] for kind in structure["layers"][0]["kinds"]] == ["embedding", "linear"]


def test_a_file_that_does_not_fit_says_where(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(compress(network(), TruncatedSVD(rank=2)).model, path)
    with pytest.raises(ValueError, match="no module '4', which the file holds"):
        checkpoint.load(path, nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 9)))
    wider = blank()
    wider[1] = nn.Linear(8, 9, bias=False)
    with pytest.raises(ValueError, match=r"lacks \[\] and has \['1.bias'\] besides"):
        checkpoint.load(path, wider)
    with pytest.raises(ValueError, match=r"float32 in the file and .* torch\.float64 in the model"):
        checkpoint.load(path, blank().double())


def test_a_foreign_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no model saved by"):
        checkpoint.load(tmp_path / "other.safetensors", blank())


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match="model.safetensors is no whole safetensors file"):
        checkpoint.load(tmp_path / "model.safetensors", blank())
