"""Smaller dense models, loaded by the lines in their folder without lowrank."""

import json
import subprocess
import sys
from pathlib import Path

import plain_program
import pytest
import torch
from test_formats import data_bytes
from torch import nn

import lowrank
from lowrank import Chain, MagnitudePruning, Quantization, Select, TruncatedSVD, Tucker2

pytest.importorskip("torch_pruning")
ROWS = MagnitudePruning(0.5, pattern="rows")
HIDDEN = Select(last=False)
IMAGES, VECTORS = torch.randn(2, 3, 12, 12), torch.randn(3, 32)
IDS = torch.arange(24).view(2, 12)
# Name → network, method, which layers, options of the format, inputs.
CASES = {
    "mlp": ("mlp", TruncatedSVD(rank=2), None, {}, VECTORS),
    "mlp, mixed": ("mlp", {"0": TruncatedSVD(2), "3": Quantization(4)}, None, {}, VECTORS),
    "mlp, cut": ("mlp", ROWS, HIDDEN, {"cut": True, "example": VECTORS}, VECTORS),
    "spatial": ("convolutions", TruncatedSVD(1, view="spatial"), HIDDEN, {}, IMAGES),
    "Tucker-2": ("convolutions", Tucker2(ranks=(2, 2)), HIDDEN, {}, IMAGES),
    "convolutions, cut": ("convolutions", ROWS, HIDDEN, {"cut": True, "example": IMAGES}, IMAGES),
    "tied": ("tied", TruncatedSVD(rank=2), None, {}, IDS),
    "llama": ("llama", TruncatedSVD(rank=4), None, {}, IDS),
    "llama, cut": ("llama", ROWS, Select(include=["*.gate_proj", "*.up_proj"]), {"cut": True}, IDS),
}


def case(name):
    network, method, where, options, inputs = CASES[name]
    torch.manual_seed(0)
    dense = getattr(plain_program, network)()
    if name == "llama, cut":  # Rows are chosen by each layer for itself.
        layer = dense.model.layers[0].mlp
        layer.up_proj.weight.data = layer.gate_proj.weight.data.clone()
    return lowrank.compress(dense, method, where=where).model, options, inputs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of all cases with their plans, after one other process has run them."""
    root, arguments, plans = tmp_path_factory.mktemp("plain"), [], {}
    for name, (network, *_) in CASES.items():
        model, options, inputs = case(name)
        plans[name] = root / name, lowrank.export_model(model, "plain", root / name, **options)
        torch.save(inputs, root / name / "inputs.pt")
        arguments += [network, str(root / name)]
    program = Path(plain_program.__file__)
    subprocess.run([sys.executable, str(program), *arguments], check=True, cwd=root)
    return plans


@pytest.mark.parametrize("name", CASES)
def test_the_folder_loads_without_lowrank_and_computes_the_same(name, folders):
    model, _, inputs = case(name)
    folder, plan = folders[name]
    with torch.no_grad():
        wanted = model(inputs)
    found = torch.load(folder / "outputs.pt")
    torch.testing.assert_close(found, getattr(wanted, "logits", wanted), rtol=1e-4, atol=1e-5)
    assert plan.nbytes == data_bytes(folder / "model.safetensors")
    dense = getattr(plain_program, CASES[name][0])()
    assert plan.nbytes < sum(tensor.nbytes for tensor in dense.state_dict().values())


def test_the_plan_says_what_becomes_of_each_layer(folders):
    text = folders["mlp, mixed"][1].describe()
    assert "2 modules, 32→2 and 2→24" in text
    assert "multiplied out: no modules of PyTorch hold this form" in text
    assert "0: 32→24 is cut to 32→12" in folders["mlp, cut"][1].describe()


def test_the_structure_names_what_is_exchanged_alone(folders):
    structure = json.loads((folders["mlp, mixed"][0] / "structure.json").read_text())
    assert list(structure["modules"]) == ["0"]
    assert [kind for kind, _ in structure["modules"]["0"]] == ["Linear", "Linear"]


def test_options_and_models_that_are_refused(tmp_path):
    model, *_ = case("mlp")
    with pytest.raises(ValueError, match="example is for cutting"):
        lowrank.export_model(model, "plain", tmp_path / "out", example=VECTORS)
    with pytest.raises(ValueError, match="whole='head' fits none"):
        lowrank.export_model(model, "plain", tmp_path / "out", whole="head")
    with pytest.raises(ValueError, match="nothing says which inputs Sequential takes"):
        lowrank.export_model(model, "plain", tmp_path / "out", cut=True)
    method = Chain([TruncatedSVD(rank=2), Quantization(bits=8)])
    single = lowrank.compress(nn.Linear(16, 16), method).model
    with pytest.raises(ValueError, match="the model is one FactorizedLinear"):
        lowrank.export_model(single, "plain", tmp_path / "out")
    assert not list(tmp_path.iterdir())
