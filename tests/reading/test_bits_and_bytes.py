"""Models that bitsandbytes has compressed: its own files, and what is refused."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from architectures import GROUPED, IDS, TOKENS, Architecture
from safetensors.torch import load_file, save_file

import lowrank
from lowrank.factorizations import Quantized, ScaledLevels
from lowrank.model.factorized import FactorizedLayer
from lowrank.reading import scheme_of

PROGRAM = Path(__file__).with_name("bits_and_bytes_program.py")
SIZES = GROUPED | TOKENS | {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 1}
LLAMA = Architecture("LlamaForCausalLM", "LlamaConfig", SIZES | {"head_dim": 16}, 9, set(), "")
WAYS = ["nf4", "fp4", "nf4, double", "int8"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folders that bitsandbytes has made."""
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    root = tmp_path_factory.mktemp("bitsandbytes")
    LLAMA.make().save_pretrained(root / "dense")
    ran = subprocess.run(
        [sys.executable, PROGRAM, root / "dense", root],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return root


def forms(model):
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FactorizedLayer)}
    return {name: layer.factorization for name, layer in layers.items()}


@pytest.mark.parametrize("name", WAYS)
def test_weights_are_those_of_bitsandbytes(name, made):
    found = lowrank.read_compressed(str(made / name))
    held, theirs = forms(found.model), load_file(made / f"{name}.safetensors")
    assert held.keys() == theirs.keys() and len(held) == 7
    for layer, weight in theirs.items():
        own = held[layer].to_dense()
        if name == "int8":  # Two products each, in another order: four roundings of float32.
            assert torch.all((own - weight).abs() <= 2**-22 * weight.abs())
        else:
            assert torch.equal(own, weight), layer
    assert {type(form) for form in held.values()} == {Quantized if name == "int8" else ScaledLevels}
    assert ("rounds activations" in found.describe()) == (name == "int8")
    assert torch.isfinite(found.model(IDS).logits).all()


@pytest.mark.parametrize("name", WAYS)
def test_bytes_are_those_of_the_file_but_for_its_descriptions(name, made):
    found = lowrank.read_compressed(str(made / name))
    stored = load_file(made / name / "model.safetensors")
    assert found.file_bytes == sum(tensor.nbytes for tensor in stored.values())
    for layer in found.layers:
        told = sum(
            tensor.nbytes
            for key, tensor in stored.items()
            if key.startswith(layer.name) and ("quant_state" in key or "weight_format" in key)
        )
        offset = 4 if "double" in name else 0  # In the description, in the file.
        assert told and layer.nbytes == layer.file_bytes - told + offset


def test_it_is_saved_and_loaded_in_half_precision_too(made, tmp_path):
    found = lowrank.read_compressed(str(made / "nf4, double"), dtype="float16")
    theirs = load_file(made / "nf4, double.safetensors")
    lowrank.save(found.model, tmp_path / "own.safetensors")
    again = lowrank.load(tmp_path / "own.safetensors")
    for layer, form in forms(again).items():
        assert torch.equal(form.to_dense(), theirs[layer].half()), layer


@pytest.fixture
def folder(tmp_path):
    """A folder with double quantization, written here code by code, and its matrices."""
    model = LLAMA.make()
    draw = torch.Generator().manual_seed(0)
    tensors, dense = {}, {}
    for name, tensor in model.state_dict().items():
        if not name.endswith("proj.weight"):
            tensors[name] = tensor
            continue
        rows, columns = tensor.shape
        count = rows * columns // 64
        codes = torch.randint(0, 16, (rows * columns,), generator=draw)
        inner = torch.randint(0, 256, (count,), generator=draw)
        table, maps = torch.randn(16, generator=draw), torch.rand(256, generator=draw)
        outer = torch.rand(-(-count // 256), generator=draw)
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [rows, columns]}
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.3}
        packed = (codes[::2] * 16 + codes[1::2]).byte()
        scale = maps[inner] * outer.repeat_interleave(256)[:count] + torch.tensor(0.3)
        dense[name.removesuffix(".weight")] = table[codes].view(rows, columns) * scale.view(
            rows, -1
        ).repeat_interleave(64, dim=1)
        tensors |= {
            name: packed[:, None].contiguous(),
            f"{name}.absmax": inner.byte(),
            f"{name}.quant_map": table,
            f"{name}.nested_absmax": outer,
            f"{name}.nested_quant_map": maps,
            f"{name}.quant_state.bitsandbytes__nf4": text(state),
        }
    save_file(tensors, tmp_path / "model.safetensors")
    model.config.architectures = ["LlamaForCausalLM"]
    config = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
    }
    fields = model.config.to_dict() | {"quantization_config": config}
    (tmp_path / "config.json").write_text(json.dumps(fields, default=str))
    return tmp_path, dense


def text(state):
    return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)


def test_weights_are_those_of_the_formula(folder):
    path, dense = folder
    held = forms(lowrank.read_compressed(str(path)).model)
    assert held.keys() == dense.keys()
    for name, weight in dense.items():
        assert torch.equal(held[name].to_dense(), weight), name


PREFIX = "model.layers.0.mlp.up_proj.weight"
STATE = f"{PREFIX}.quant_state.bitsandbytes__nf4"
TOLD = {
    "quant_type": "nf4",
    "blocksize": 64,
    "shape": [192, 64],
    "nested_blocksize": 256,
    "nested_offset": 0.3,
}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda t: t.pop(f"{PREFIX}.absmax"), "lacks 'weight.absmax'"),
        (lambda t: t.pop(STATE), "lacks 'weight.quant_state"),
        (lambda t: t.update({STATE: text(TOLD | {"shape": [64, 192]})}), "as in the model"),
        (lambda t: t.update({STATE: text(TOLD | {"blocksize": 128})}), "from row to row of 64"),
        (lambda t: t.update({STATE: text(TOLD | {"blocksize": 0})}), "blocksize"),
        (lambda t: t.update({STATE: text(TOLD | {"quant_type": "fp4"})}), "quant_type"),
        (lambda t: t.update({STATE: text(TOLD | {"nested_offset": None})}), "nested_offset"),
        (lambda t: t.update({STATE: text([1])}), "must be a mapping"),
        (lambda t: t.update({STATE: torch.full((9,), 255, dtype=torch.uint8)}), "is not JSON"),
        (lambda t: t.update({STATE: torch.zeros(5000, dtype=torch.uint8)}), "at most 4096"),
        (lambda t: t.update({PREFIX: torch.zeros(6143, 1, dtype=torch.uint8)}), "must be"),
        (lambda t: t[f"{PREFIX}.nested_absmax"].fill_(torch.nan), "scale"),
        (lambda t: t[f"{PREFIX}.quant_map"].fill_(torch.inf), "levels"),
        (lambda t: t.update({f"{PREFIX}.extra": torch.ones(2)}), "which no layer of bitsandbytes"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(change, error, folder):
    path = folder[0] / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=error):
        lowrank.read_compressed(str(folder[0]))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"load_in_4bit": True, "load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf3"},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "float16"},
    ],
)
def test_other_ways_are_refused(fields):
    with pytest.raises(ValueError, match="quantization_config"):
        scheme_of({"quant_method": "bitsandbytes"} | fields)


def integers():
    """The tensors of LLM.int8."""
    return {
        "weight": torch.full((4, 8), -127, dtype=torch.int8),
        "SCB": torch.tensor([1.0, 2.0, 0.0, 127.0]),
        "weight_format": torch.tensor(0, dtype=torch.uint8),
    }


def test_integers_have_a_scale_for_each_row(tmp_path):
    from lowrank.reading import stored_in
    from lowrank.reading.stored import LayerTensors

    scheme = scheme_of({"quant_method": "bitsandbytes", "load_in_8bit": True})
    save_file(integers(), tmp_path / "a.safetensors")
    with stored_in(tmp_path) as stored:
        form = scheme.read(LayerTensors("a", stored), (4, 8), torch.float32)
    expected = torch.tensor([-1.0, -2.0, 0.0, -127.0])[:, None].expand(4, 8)
    assert torch.allclose(form.to_dense(), expected, rtol=2**-22, atol=0)
    save_file(
        integers() | {"weight_format": torch.tensor(2, dtype=torch.uint8)},
        tmp_path / "a.safetensors",
    )
    with stored_in(tmp_path) as stored, pytest.raises(ValueError, match="weight_format' is 2"):
        scheme.read(LayerTensors("a", stored), (4, 8), torch.float32)
