"""Models that other tools have compressed: their codes, their bytes, and what is refused."""

import json
from functools import partial

import pytest
import torch
from architectures import IDS
from packed_models import LLAMA, QWEN2, Codes, awq, compressed_tensors, gptq, groups_of, write
from safetensors.torch import load_file, save_file

import lowrank
from lowrank.factorizations import Quantized, ReorderedColumns
from lowrank.model.factorized import FactorizedLayer


def gptq_config(bits, size, **others):
    return {"quant_method": "gptq", "bits": bits, "group_size": size, "sym": False} | others


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
CASES = {
    **{
        f"gptq, {bits} bits": (
            gptq_config(bits, 32),
            partial(gptq, bits=bits),
            partial(Codes.of, bits=bits, size=32),
        )
        for bits in (2, 3, 4, 8)
    },
    "gptq, of whole rows": (
        gptq_config(4, -1),
        partial(gptq, bits=4),
        partial(Codes.of, bits=4, size=-1),
    ),
    "gptq, a shorter last group": (
        gptq_config(4, 48),
        partial(gptq, bits=4),
        partial(Codes.of, bits=4, size=48),
    ),
    "gptq, act-order": (
        gptq_config(4, 32, desc_act=True),
        partial(gptq, bits=4),
        partial(Codes.of, bits=4, size=32, order=True),
    ),
    "gptq, second version": (
        gptq_config(4, 32, checkpoint_format="gptq_v2"),
        partial(gptq, bits=4, less_one=0),
        partial(Codes.of, bits=4, size=32),
    ),
    "gptq, symmetric": (
        gptq_config(4, 32),
        partial(gptq, bits=4),
        partial(Codes.of, bits=4, size=32, symmetric=True),
    ),
    "awq": (AWQ, awq, partial(Codes.of, bits=4, size=32)),
    "packed, 4 bits": (
        groups_of(4, 32),
        partial(compressed_tensors, bits=4),
        partial(Codes.of, bits=4, size=32),
    ),
    "packed, 3 bits": (
        groups_of(3, 32),
        partial(compressed_tensors, bits=3),
        partial(Codes.of, bits=3, size=32),
    ),
    "packed, 8 bits, symmetric": (
        groups_of(8, None, symmetric=True),
        partial(compressed_tensors, bits=8, symmetric=True),
        partial(Codes.of, bits=8, size=-1, symmetric=True),
    ),
    "packed, act-order": (
        groups_of(4, 32),
        partial(compressed_tensors, bits=4, order=True),
        partial(Codes.of, bits=4, size=32, order=True),
    ),
    "integers": (
        groups_of(8, None, form="int-quantized"),
        partial(compressed_tensors, bits=8, packs=False),
        partial(Codes.of, bits=8, size=-1),
    ),
}


def forms(model):
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FactorizedLayer)}
    return {name: layer.factorization for name, layer in layers.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_weights_are_those_of_the_codes_and_the_outputs_those_of_the_dense_model(
    name, tmp_path
):
    if "packed" in name or name == "integers":
        pytest.importorskip("compressed_tensors")
    config, pack, codes = CASES[name]
    dense = write(tmp_path / "model", LLAMA.make, config, pack, codes)
    found = lowrank.read_compressed(str(tmp_path / "model"), dtype="float16")
    assert len(found.layers) == 7 and found.scheme in found.describe()
    for layer, form in forms(found.model).items():
        assert torch.equal(form.to_dense(), dense.get_submodule(layer).weight), layer
    kinds = {type(form) for form in forms(found.model).values()}
    assert kinds == {ReorderedColumns if "act-order" in name else Quantized}
    assert torch.equal(found.model(IDS).logits, dense(IDS).logits)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert found.file_bytes == sum(tensor.nbytes for tensor in stored.values())
    # Codes, scales and zero points: what both have. The file also has the group of each column.
    assert sum(layer.nbytes for layer in found.layers) <= sum(
        layer.file_bytes for layer in found.layers
    )


def test_bytes_are_those_of_the_file_but_for_what_need_not_be_stored(tmp_path):
    config, pack, codes = CASES["awq"]
    write(tmp_path / "model", LLAMA.make, config, pack, codes)
    found = lowrank.read_compressed(str(tmp_path / "model"), dtype="float16")
    assert all(layer.nbytes == layer.file_bytes for layer in found.layers)
    assert found.nbytes == found.file_bytes


def test_biases_and_tied_tables_are_read(tmp_path):
    config, pack, codes = CASES["gptq, 4 bits"]
    dense = write(tmp_path / "model", QWEN2.make, config, pack, codes)
    found = lowrank.read_compressed(str(tmp_path / "model"), dtype="float16")
    assert torch.equal(found.model(IDS).logits, dense(IDS).logits)
    assert found.model.lm_head.weight is found.model.model.embed_tokens.weight
    assert torch.equal(
        found.model.model.layers[0].self_attn.q_proj.bias,
        dense.model.layers[0].self_attn.q_proj.bias,
    )


def test_what_is_read_is_saved_and_loaded_as_any_compressed_model(tmp_path):
    config, pack, codes = CASES["gptq, act-order"]
    write(tmp_path / "model", LLAMA.make, config, pack, codes)
    found = lowrank.read_compressed(str(tmp_path / "model"))
    lowrank.save(found.model, tmp_path / "own.safetensors")
    again = lowrank.load(tmp_path / "own.safetensors")
    assert torch.equal(again(IDS).logits, found.model(IDS).logits)


@pytest.fixture
def folder(tmp_path):
    config, pack, codes = CASES["gptq, 4 bits"]
    write(tmp_path / "model", LLAMA.make, config, pack, codes)
    return tmp_path / "model"


def changed(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    for name, value in fields.items():
        place = config["quantization_config"] if name in config["quantization_config"] else config
        place[name] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"quant_method": "hqq"}, r"quant_method is 'hqq'.*'awq', 'bitsandbytes', 'comp"),
        ({"bits": 5}, r"one of \(2, 3, 4, 8\)"),
        ({"bits": 2}, "must be"),
        ({"group_size": 0}, "group_size"),
        ({"group_size": 16}, "scales"),
        ({"quantization_config": None}, "has no quantization_config"),
        ({"quantization_config": 3}, "no configuration of"),
        ({"num_hidden_layers": 10**9}, "layers, its files fewer"),
        ({"num_hidden_layers": 2}, "the file lacks"),
        ({"hidden_size": 2**20, "head_dim": 16}, "in the model, of which its"),
    ],
)
def test_configs_that_do_not_fit_are_refused(fields, text, folder):
    changed(folder, **fields)
    with pytest.raises(ValueError, match=text):
        lowrank.read_compressed(str(folder))


PREFIX = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop(f"{PREFIX}.qzeros"), "lacks 'qzeros'"),
        (lambda t: t.pop("model.norm.weight"), r"lacks \['model.norm.weight'\]"),
        (lambda t: t.update({"extra": torch.ones(2)}), r"the model has not, \['extra'\]"),
        (
            lambda t: t.update({f"{PREFIX}.extra": torch.ones(2)}),
            r"has \['extra'\], which no layer",
        ),
        (lambda t: t.update({f"{PREFIX}.bias": torch.ones(128).half()}), "the layer has none"),
        (lambda t: t[f"{PREFIX}.qzeros"].fill_(-1), "zero points of 16"),
        (lambda t: t[f"{PREFIX}.g_idx"].fill_(0), "groups of columns do not all have 32"),
        (lambda t: t[f"{PREFIX}.scales"].fill_(float("nan")), "scale"),
        (lambda t: t.update({f"{PREFIX}.scales": torch.ones(3, 3).half()}), "must be"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(change, text, folder):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=text):
        lowrank.read_compressed(str(folder))


def test_damaged_and_other_files_are_refused(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        lowrank.read_compressed(str(folder))
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="is a pickle"):
        lowrank.read_compressed(str(folder))
    path.unlink()
    with pytest.raises(ValueError, match=r"no \*.safetensors file"):
        lowrank.read_compressed(folder)
    for name, text in (("", "is empty"), (None, "must be a path"), (5, "must be a path")):
        with pytest.raises(ValueError, match=text):
            lowrank.read_compressed(name)
    with pytest.raises(ValueError, match="auto='LlamaConfig'"):
        lowrank.read_compressed(str(folder), auto="LlamaConfig")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"format": "float-quantized"}, "format"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({"sparsity_config": {"format": "sparse-bitmask"}}, "sparsity_config"),
    ],
)
def test_schemes_of_compressed_tensors_that_are_not_read_are_refused(fields, text):
    from lowrank.reading import scheme_of

    with pytest.raises(ValueError, match=text):
        scheme_of(groups_of(4, 32) | fields)
    rounds = groups_of(8)
    rounds["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8}
    with pytest.raises(ValueError, match="activations are not quantized here"):
        scheme_of(rounds)
